/* Products of tiles: kernels/tiles_body.h. A tile of R is 16 words of 16 columns, and so K is filled up to that. */
#define HAS_TILES
#define FILL_INT8 64
#define FILL_BF16 32
#undef INT8_RATE
#undef BF16_RATE
#define INT8_RATE 16
#define BF16_RATE 8
