/* Products of row-major matrices on a team: what linear layers compute.
 *
 * N rows, I inputs and O outputs of a layer; x (N, I), weight (O, I), bias (O) or null, y (N, O). What is read is
 * packed on the way, as far as it stays in the cache. An element is the same sum in the same order whatever lies around
 * it, so a row's bits depend on nothing but the row and the weights.
 */
#ifndef FRNN_PRODUCTS_H
#define FRNN_PRODUCTS_H

#include "../fastrnn.h"

/* y = x W^T + b */
int64_t frnn_linear_workspace(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, int threads);
void frnn_linear(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, const void *x, const void *weight, const void *bias,
                 void *y, int threads, void *workspace);

/* The same with weights that were packed before, maybe narrow ones; int8 ones have `scales` (O). What is not a weight
 * is of the dtype that the storage belongs to. */
int64_t frnn_linear_pack_bytes(frnn_storage storage, int64_t I, int64_t O);
void frnn_linear_pack(frnn_storage storage, int64_t I, int64_t O, const void *weight, const float *scales, int threads,
                      void *packed);
int64_t frnn_linear_packed_workspace(frnn_storage storage, int64_t N, int64_t I);
void frnn_linear_packed(frnn_storage storage, int64_t N, int64_t I, int64_t O, const void *x, const void *packed,
                        const void *bias, void *y, int threads, void *workspace);

/* dx = dy W, dweight = dy^T x and dbias, the sums of dy over the rows; dx and dbias may be null. */
int64_t frnn_linear_backward_workspace(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, int threads);
void frnn_linear_backward(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, const void *x, const void *weight,
                          const void *dy, void *dx, void *dweight, void *dbias, int threads, void *workspace);

#endif
