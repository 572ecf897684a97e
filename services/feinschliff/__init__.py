"""The fine-tuning platform: data comes in, models come out better, and are evaluated, served and watched."""
