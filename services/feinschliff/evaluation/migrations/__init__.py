"""The steps by which the tables of evaluation came to be; append only."""
