/* The blas engine's entry points: choose the dtype, check that sizes fit. */
#include "gemm.h"
#include "plan.h"

size_t frnn_blas_forward_workspace_f32(const frnn_cell *, const frnn_forward_args *);
size_t frnn_blas_forward_workspace_f64(const frnn_cell *, const frnn_forward_args *);
size_t frnn_blas_backward_workspace_f32(const frnn_cell *, const frnn_backward_args *);
size_t frnn_blas_backward_workspace_f64(const frnn_cell *, const frnn_backward_args *);
void frnn_blas_forward_f32(const frnn_cell *, const frnn_forward_args *, int, void *);
void frnn_blas_forward_f64(const frnn_cell *, const frnn_forward_args *, int, void *);
void frnn_blas_backward_f32(const frnn_cell *, const frnn_backward_args *, int, void *);
void frnn_blas_backward_f64(const frnn_cell *, const frnn_backward_args *, int, void *);

/* Does every size and leading dimension fit BLAS's integer? A thread's rows may lie `threads` apart. */
static int fits(const frnn_cell *cell, int64_t B, int64_t chunk_rows) {
    const int64_t limit = frnn_gemm_limit() / 1024, widest = FRNN_MAX(4 * cell->H, FRNN_MAX(cell->I, cell->O));
    return widest <= limit && B <= frnn_gemm_limit() && chunk_rows <= frnn_gemm_limit();
}

int64_t frnn_blas_forward_workspace(const frnn_cell *cell, const frnn_forward_args *args) {
    const int f32 = cell->dtype == FRNN_F32;
    if (!fits(cell, args->steps.B, frnn_forward_plan(cell, args, f32 ? 4 : 8).chunk_rows)) return -1;
    return (int64_t)(f32 ? frnn_blas_forward_workspace_f32 : frnn_blas_forward_workspace_f64)(cell, args);
}

int64_t frnn_blas_backward_workspace(const frnn_cell *cell, const frnn_backward_args *args) {
    const int f32 = cell->dtype == FRNN_F32;
    if (!fits(cell, args->steps.B, frnn_backward_plan(cell, args, f32 ? 4 : 8).chunk_rows)) return -1;
    return (int64_t)(f32 ? frnn_blas_backward_workspace_f32 : frnn_blas_backward_workspace_f64)(cell, args);
}

void frnn_blas_forward(const frnn_cell *cell, const frnn_forward_args *args, int threads, void *workspace) {
    (cell->dtype == FRNN_F32 ? frnn_blas_forward_f32 : frnn_blas_forward_f64)(cell, args, threads, workspace);
}

void frnn_blas_backward(const frnn_cell *cell, const frnn_backward_args *args, int threads, void *workspace) {
    (cell->dtype == FRNN_F32 ? frnn_blas_backward_f32 : frnn_blas_backward_f64)(cell, args, threads, workspace);
}
