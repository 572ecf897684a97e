/* What one step of many answers needs beside matrix products, in plain C; see decode.h.
 *
 * A framework pays some microseconds for each of the dozens of small steps around a product, more than the step
 * itself takes for one token. Plain loops, no intrinsics: the compiler makes vectors of them for any processor. */
#define _GNU_SOURCE
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define WORTH_A_THREAD 16384 /* numbers */
#define SHARED_MAX 16 /* query heads of one key head */
#define HEAD_MAX 256  /* size of a head */
#define BLOCK 64      /* positions at a time */
#define RANKS 8       /* at a time */
#define OUTPUTS 256   /* at a time */
#define GATES 2048    /* numbers at a time */
#define LINEARS 7     /* of a layer */
#define TOGETHER_MAX 3 /* of them, with one input */
#define SPINS 100000   /* about a millisecond */
#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() (void)0
#endif
#ifdef __linux__
#define SLEEP(at, value) syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, 0, 0, 0)
#define WAKE(at) syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT_MAX, 0, 0, 0)
#else
#define SLEEP(at, value) sched_yield()
#define WAKE(at) (void)0
#endif

/* Threads are borrowed from whoever computes beside us: that pool waits for work already. GNU OpenMP's entries. */
typedef void (*Parallel)(void (*part)(void *), void *work, unsigned threads, unsigned flags);
typedef int (*TeamSize)(void);
typedef void (*Item)(const void *arguments, int64_t number);

static Parallel parallel;
static TeamSize team_size;
static unsigned threads = 1;

void use_threads(Parallel with, TeamSize size, unsigned count) {
    parallel = with;
    team_size = size;
    threads = count;
}

/* Threads that go through phases together: nobody begins one before all have ended the one before. */
typedef struct {
    _Atomic int64_t next;
    _Atomic int64_t arrived, size;
    _Atomic uint32_t phase, sleepers;
} Team;

/* Spins for far longer than a phase takes; then sleeps, for a thread of the team has lost its processor to others. Who sleeps
 * sooner is woken on the core of who wakes it, and the team shares one core from then on. */
static void wait_past(Team *team, uint32_t present) {
    for (int64_t turn = 0; turn < SPINS; turn++) {
        if (atomic_load_explicit(&team->phase, memory_order_acquire) != present) return;
        PAUSE();
    }
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->phase) == present) SLEEP(&team->phase, present);
    atomic_fetch_sub(&team->sleepers, 1);
}

static void begin_next(Team *team, uint32_t present) {
    atomic_store(&team->arrived, 0);
    atomic_store(&team->next, 0);
    atomic_store(&team->phase, present + 1);
    if (atomic_load(&team->sleepers)) WAKE(&team->phase);
}

/* Calls item(arguments, 0 ... count - 1), each once by whichever thread comes first; all call it, all leave it together. */
static void share(Team *team, int64_t count, Item item, const void *arguments) {
    for (int64_t number; (number = atomic_fetch_add(&team->next, 1)) < count;) item(arguments, number);
    if (team->size == 1) {
        team->next = 0;
        return;
    }
    uint32_t present = atomic_load(&team->phase);
    if (atomic_fetch_add(&team->arrived, 1) + 1 < team->size)
        wait_past(team, present);
    else
        begin_next(team, present);
}

typedef void (*Part)(Team *team, const void *arguments);
typedef struct {
    Team team;
    Part part;
    const void *arguments;
} Work;

static void enter(void *shared) {
    Work *work = shared;
    work->team.size = team_size(); /* all write the same: it may be fewer than were asked for */
    work->part(&work->team, work->arguments);
}

/* Calls part(team, arguments) by every thread of a team. */
static void together(Part part, const void *arguments, unsigned wanted) {
    Work work = {.part = part, .arguments = arguments, .team = {.size = 1}};
    if (wanted > 1 && parallel)
        parallel(enter, &work, wanted, 0);
    else
        part(&work.team, arguments);
}

typedef struct {
    int64_t count;
    Item item;
    const void *arguments;
} Items;

static void share_items(Team *team, const void *arguments) {
    const Items *items = arguments;
    for (int64_t number; (number = atomic_fetch_add(&team->next, 1)) < items->count;) items->item(items->arguments, number);
}

/* Calls item(arguments, 0 ... count - 1), by several threads where that is worth it. */
static void each(int64_t count, Item item, const void *arguments, int is_worth_it) {
    Items items = {count, item, arguments};
    together(share_items, &items, !is_worth_it ? 1 : threads < count ? threads : (unsigned)count);
}

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* e^x to 2 units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes, expf). */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(x * 1.44269504088896341f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * from_bits((uint32_t)((int32_t)n + 127) << 23);
}

static inline float widen_bf16(uint16_t x) { return from_bits((uint32_t)x << 16); }

/* To the nearest, ties to even; not a number stays one. */
static inline uint16_t narrow_bf16(float x) {
    uint32_t bits = to_bits(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(x != x ? 0x7fc0u : rounded);
}

typedef float Numbers __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
#define COLUMNS 32
#define AHEAD 4096 /* bytes of weights that are asked for in time: pages end before, and processors stop at their ends */
#define PANELS(out) (((out) + COLUMNS - 1) / COLUMNS)
#ifdef __AVX512F__
#define TILE_ROWS 12 /* times 2 sums of 16 numbers: what registers hold */
#define TILES(TILE) TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#else
#define TILE_ROWS 2
#define TILES(TILE) TILE(1) TILE(2)
#endif
#define UNROLL _Pragma("GCC unroll 16")
#define LANES 16
#define HEADS_TOGETHER 4
#ifdef __clang__
#define PICK(one, two, ...) __builtin_shufflevector(one, two, __VA_ARGS__)
#else
typedef int32_t Places __attribute__((vector_size(64)));
#define PICK(one, two, ...) __builtin_shuffle(one, two, (Places){__VA_ARGS__})
#endif

#define PAIRS_OF(one, two)                                                              \
    (PICK(one, two, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +        \
     PICK(one, two, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#define FOURS_OF(one, two)                                                              \
    (PICK(one, two, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +         \
     PICK(one, two, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#define EIGHTS_OF(one, two)                                                             \
    (PICK(one, two, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +         \
     PICK(one, two, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
#define ALL_OF(one, two)                                                                \
    (PICK(one, two, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +           \
     PICK(one, two, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))

/* The sum of each of 16 vectors, in their order. */
static inline __attribute__((always_inline)) Numbers sums_of(const Numbers *of) {
    Numbers fours[4];
    UNROLL for (int n = 0; n < 4; n++) {
        Numbers one = PAIRS_OF(of[4 * n], of[4 * n + 1]), two = PAIRS_OF(of[4 * n + 2], of[4 * n + 3]);
        fours[n] = FOURS_OF(one, two);
    }
    Numbers one = EIGHTS_OF(fours[0], fours[1]), two = EIGHTS_OF(fours[2], fours[3]);
    return ALL_OF(one, two);
}

/* Two inputs at a time: the lower half of each number is the first one's weight. */
static inline __attribute__((always_inline)) Numbers dot_bf16(Numbers sums, const uint16_t *x, Numbers weights) {
    uint32_t both;
    memcpy(&both, x, sizeof both);
#ifdef __AVX512BF16__
    return (Numbers)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32((int)both), (__m512bh)weights);
#else
    Bits bits = (Bits)weights;
    sums += (Numbers)(bits << 16) * from_bits(both << 16);
    return sums + (Numbers)(bits & 0xffff0000u) * from_bits(both & 0xffff0000u);
#endif
}

typedef int32_t Ints __attribute__((vector_size(64)));
#define BYTES 4 /* of a number of 32 bits */

/* The n-th signed byte of each number as a float, times 2^24: at the upper end of an integer it needs no other sign. */
static inline Bits byte_of(Bits packed, int n) {
    return (Bits)__builtin_convertvector((Ints)((packed << (24 - 8 * n)) & 0xff000000u), Numbers);
}

/* Two of them at a time: 8 bits are exact in bf16. */
static inline Numbers from_bytes_bf16(Bits packed, int n) {
    return (Numbers)((byte_of(packed, 2 * n) >> 16) | byte_of(packed, 2 * n + 1));
}

static inline Numbers from_bytes_fp32(Bits packed, int n) { return (Numbers)byte_of(packed, n); }

typedef uint16_t Halves __attribute__((vector_size(32)));

static inline Numbers sixteen_bf16(const uint16_t *x) {
    Halves halves;
    memcpy(&halves, x, sizeof halves);
    return (Numbers)(__builtin_convertvector(halves, Bits) << 16);
}

static inline Numbers sixteen_fp32(const float *x) {
    Numbers numbers;
    memcpy(&numbers, x, sizeof numbers);
    return numbers;
}

static inline __attribute__((always_inline)) Numbers dot_chunk_bf16(Numbers sums, Bits one, Bits two) {
#ifdef __AVX512BF16__
    return (Numbers)_mm512_dpbf16_ps((__m512)sums, (__m512bh)one, (__m512bh)two);
#else
    sums += (Numbers)(one << 16) * (Numbers)(two << 16);
    return sums + (Numbers)(one & 0xffff0000u) * (Numbers)(two & 0xffff0000u);
#endif
}

#define REAL uint16_t
#define WIDEN(x) widen_bf16(x)
#define NARROW(x) narrow_bf16(x)
#define NAME(x) x##_bf16
#define SIXTEEN(x) sixteen_bf16(x)
#define TOGETHER 2
#define DOT(sums, x, weights) sums = dot_bf16(sums, x, weights)
#define FROM_BYTES(packed, n) from_bytes_bf16(packed, n)
#define CHUNK 32
#define HALVES 2
#define DOT_CHUNK(sums, one, two) sums = dot_chunk_bf16(sums, one, two)
#define WIDE(chunk, half) ((Numbers)(half ? chunk & 0xffff0000u : chunk << 16))
#include "attention.h"
#include "decode.h"
#include "product.h"
#include "step.h"
#undef REAL
#undef WIDEN
#undef NARROW
#undef NAME
#undef TOGETHER
#undef DOT
#undef FROM_BYTES
#undef CHUNK
#undef HALVES
#undef DOT_CHUNK
#undef WIDE
#undef SIXTEEN

#define REAL float
#define WIDEN(x) (x)
#define NARROW(x) (x)
#define NAME(x) x##_fp32
#define SIXTEEN(x) sixteen_fp32(x)
#define TOGETHER 1
#define DOT(sums, x, weights) sums += (weights) * *(x)
#define FROM_BYTES(packed, n) from_bytes_fp32(packed, n)
#define CHUNK 16
#define HALVES 1
#define DOT_CHUNK(sums, one, two) sums += (Numbers)(one) * (Numbers)(two)
#define WIDE(chunk, half) ((Numbers)(chunk))
#include "attention.h"
#include "decode.h"
#include "product.h"
#include "step.h"
