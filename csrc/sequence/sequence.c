/* Entry points: choose the dtype, check that sizes fit. */
#include "../blas/gemm.h"
#include "plan.h"

int64_t frnn_pack_bytes_f32(const frnn_cell *, frnn_pass);
int64_t frnn_pack_bytes_f64(const frnn_cell *, frnn_pass);
void frnn_pack_f32(const frnn_cell *, frnn_pass, void *);
void frnn_pack_f64(const frnn_cell *, frnn_pass, void *);
size_t frnn_forward_workspace_f32(const frnn_cell *, const frnn_forward_args *);
size_t frnn_forward_workspace_f64(const frnn_cell *, const frnn_forward_args *);
size_t frnn_backward_workspace_f32(const frnn_cell *, const frnn_backward_args *);
size_t frnn_backward_workspace_f64(const frnn_cell *, const frnn_backward_args *);
void frnn_forward_f32(const frnn_cell *, const frnn_forward_args *, int, void *);
void frnn_forward_f64(const frnn_cell *, const frnn_forward_args *, int, void *);
void frnn_backward_f32(const frnn_cell *, const frnn_backward_args *, int, void *);
void frnn_backward_f64(const frnn_cell *, const frnn_backward_args *, int, void *);

/* Does every size and leading dimension fit BLAS's integer? A thread's rows may lie `threads` apart. */
static int fits(const frnn_cell *cell, int64_t B, int64_t chunk_rows) {
    const int64_t limit = frnn_gemm_limit() / 1024, widest = FRNN_MAX(4 * cell->H, FRNN_MAX(cell->I, cell->O));
    return widest <= limit && B <= frnn_gemm_limit() && chunk_rows <= frnn_gemm_limit();
}

int64_t frnn_forward_workspace(const frnn_cell *cell, const frnn_forward_args *args) {
    const int f32 = cell->dtype == FRNN_F32;
    if (!fits(cell, args->steps.B, frnn_forward_plan(cell, args, f32 ? 4 : 8).chunk_rows)) return -1;
    return (int64_t)(f32 ? frnn_forward_workspace_f32 : frnn_forward_workspace_f64)(cell, args);
}

int64_t frnn_backward_workspace(const frnn_cell *cell, const frnn_backward_args *args) {
    const int f32 = cell->dtype == FRNN_F32;
    if (!fits(cell, args->steps.B, frnn_backward_plan(cell, args, f32 ? 4 : 8).chunk_rows)) return -1;
    return (int64_t)(f32 ? frnn_backward_workspace_f32 : frnn_backward_workspace_f64)(cell, args);
}

void frnn_forward(const frnn_cell *cell, const frnn_forward_args *args, int threads, void *workspace) {
    (cell->dtype == FRNN_F32 ? frnn_forward_f32 : frnn_forward_f64)(cell, args, threads, workspace);
}

void frnn_backward(const frnn_cell *cell, const frnn_backward_args *args, int threads, void *workspace) {
    (cell->dtype == FRNN_F32 ? frnn_backward_f32 : frnn_backward_f64)(cell, args, threads, workspace);
}

int64_t frnn_pack_bytes(const frnn_cell *cell, frnn_pass pass) {
    return (cell->dtype == FRNN_F32 ? frnn_pack_bytes_f32 : frnn_pack_bytes_f64)(cell, pass);
}

void frnn_pack(const frnn_cell *cell, frnn_pass pass, void *packed) {
    (cell->dtype == FRNN_F32 ? frnn_pack_f32 : frnn_pack_f64)(cell, pass, packed);
}
