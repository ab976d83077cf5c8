/* All kernels of one instruction set, as a table. The file that includes this one defines ISA (a name), VECTOR_BYTES (0
 * for plain C) and VECTOR_REGISTERS, and has switched the compiler to that instruction set. */
#include "kernels.h"
#include "names.h"

#include "float32.h"
#include "kernels_body.h"
#undef REAL
#undef INTEGER
#undef UNSIGNED
#undef REAL_BITS
#undef MANTISSA_BITS
#undef FN

#define REAL double
#define INTEGER int64_t
#define UNSIGNED uint64_t
#define REAL_BITS 64
#define MANTISSA_BITS 52
#define FN(name) JOIN(name, f64)
#include "kernels_body.h"

#define LANES_f32 (VECTOR_BYTES ? VECTOR_BYTES / 4 : 1)
#define LANES_f64 (VECTOR_BYTES ? VECTOR_BYTES / 8 : 1)
#define CELL_f32(cell) &cell##_f32,
#define CELL_f64(cell) &cell##_f64,

/* Between vectors of columns there is room for one more row, so that they do not lie a power of two apart. */
#define FRNN_PACKING(REAL, D)                                                                                          \
    {.bytes = sizeof(REAL), .head = sizeof(REAL), .together = 1, .rate = 1, .pack = pack_##D, .multiply = multiply_##D}

/* clang-format off */
const frnn_kernel_set JOIN(frnn_kernels, ISA) = {
    .name = TEXT(ISA),
    .f32 = {
        .lanes = LANES_f32,
        .cells = {FRNN_CELLS(CELL_f32)},
        .packings = {[FRNN_STORED_F32] = FRNN_PACKING(float, f32),
                     [FRNN_STORED_BF16] = FRNN_PACKING_BF16,
                     [FRNN_STORED_INT8] = FRNN_PACKING_INT8},
        .add_gradient = add_gradient_f32,
        .add_columns = add_columns_f32,
        .pack_row = pack_row_f32,
        .softmax_exp = softmax_exp_f32,
        .softmax_scale = softmax_scale_f32,
        .softmax_add = softmax_add_f32,
        .dots = dots_f32,
        .weigh = weigh_f32,
        .softmax = softmax_f32,
        .softmax_backward = softmax_backward_f32,
        .largest = largest_f32,
        .exponentials = exponentials_f32,
        .widen = widen_f32,
        .tanh = tanh_array_f32,
        .sigmoid = sigmoid_array_f32,
        .log_sigmoid = log_sigmoid_array_f32,
        .dropout = dropout_f32,
        .norm_moments = norm_moments_f32,
        .normalize = normalize_f32,
        .norm_output = norm_output_f32,
        .norm_output_backward = norm_output_backward_f32,
        .norm_sums = norm_sums_f32,
        .norm_backward = norm_backward_f32,
        .norm_add_gain = norm_add_gain_f32,
        .draw_mask = draw_mask_f32,
        .sgd = sgd_f32,
        .adam = adam_f32,
        .squares = squares_f32,
    },
    .f64 = {
        .lanes = LANES_f64,
        .cells = {FRNN_CELLS(CELL_f64)},
        .packings = {[FRNN_STORED_F64] = FRNN_PACKING(double, f64)},
        .add_gradient = add_gradient_f64,
        .add_columns = add_columns_f64,
        .pack_row = pack_row_f64,
        .softmax_exp = softmax_exp_f64,
        .softmax_scale = softmax_scale_f64,
        .softmax_add = softmax_add_f64,
        .dots = dots_f64,
        .weigh = weigh_f64,
        .softmax = softmax_f64,
        .softmax_backward = softmax_backward_f64,
        .largest = largest_f64,
        .exponentials = exponentials_f64,
        .widen = widen_f64,
        .tanh = tanh_array_f64,
        .sigmoid = sigmoid_array_f64,
        .log_sigmoid = log_sigmoid_array_f64,
        .dropout = dropout_f64,
        .norm_moments = norm_moments_f64,
        .normalize = normalize_f64,
        .norm_output = norm_output_f64,
        .norm_output_backward = norm_output_backward_f64,
        .norm_sums = norm_sums_f64,
        .norm_backward = norm_backward_f64,
        .norm_add_gain = norm_add_gain_f64,
        .draw_mask = draw_mask_f64,
        .sgd = sgd_f64,
        .adam = adam_f64,
        .squares = squares_f64,
    },
};
/* clang-format on */
