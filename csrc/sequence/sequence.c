/* Entry points: choose the dtype. */
#include "../fastrnn.h"

int64_t frnn_pack_bytes_f32(const frnn_cell *, frnn_pass);
int64_t frnn_pack_bytes_f64(const frnn_cell *, frnn_pass);
void frnn_pack_f32(const frnn_cell *, frnn_pass, int, void *);
void frnn_pack_f64(const frnn_cell *, frnn_pass, int, void *);
int64_t frnn_forward_workspace_f32(const frnn_cell *, const frnn_forward_args *, int);
int64_t frnn_forward_workspace_f64(const frnn_cell *, const frnn_forward_args *, int);
int64_t frnn_backward_workspace_f32(int, const frnn_cell *const *, const frnn_backward_args *, int);
int64_t frnn_backward_workspace_f64(int, const frnn_cell *const *, const frnn_backward_args *, int);
int64_t frnn_backward_steps_f32(const frnn_cell *, int64_t);
int64_t frnn_backward_steps_f64(const frnn_cell *, int64_t);
void frnn_forward_f32(int, const frnn_cell *const *, const frnn_forward_args *, int, void *);
void frnn_forward_f64(int, const frnn_cell *const *, const frnn_forward_args *, int, void *);
void frnn_backward_f32(int, const frnn_cell *const *, const frnn_backward_args *, int, void *);
void frnn_backward_f64(int, const frnn_cell *const *, const frnn_backward_args *, int, void *);

int64_t frnn_forward_workspace(const frnn_cell *cell, const frnn_forward_args *args, int threads) {
    return (cell->dtype == FRNN_F32 ? frnn_forward_workspace_f32 : frnn_forward_workspace_f64)(cell, args, threads);
}

int64_t frnn_backward_workspace(int count, const frnn_cell *const *cells, const frnn_backward_args *args, int threads) {
    return (cells[0]->dtype == FRNN_F32 ? frnn_backward_workspace_f32 : frnn_backward_workspace_f64)(count, cells, args,
                                                                                                     threads);
}

int64_t frnn_backward_steps(const frnn_cell *cell, int64_t B) {
    return (cell->dtype == FRNN_F32 ? frnn_backward_steps_f32 : frnn_backward_steps_f64)(cell, B);
}

void frnn_forward(int count, const frnn_cell *const *cells, const frnn_forward_args *args, int threads,
                  void *workspace) {
    (cells[0]->dtype == FRNN_F32 ? frnn_forward_f32 : frnn_forward_f64)(count, cells, args, threads, workspace);
}

void frnn_backward(int count, const frnn_cell *const *cells, const frnn_backward_args *args, int threads,
                   void *workspace) {
    (cells[0]->dtype == FRNN_F32 ? frnn_backward_f32 : frnn_backward_f64)(count, cells, args, threads, workspace);
}

int64_t frnn_pack_bytes(const frnn_cell *cell, frnn_pass pass) {
    return (cell->dtype == FRNN_F32 ? frnn_pack_bytes_f32 : frnn_pack_bytes_f64)(cell, pass);
}

void frnn_pack(const frnn_cell *cell, frnn_pass pass, int threads, void *packed) {
    (cell->dtype == FRNN_F32 ? frnn_pack_f32 : frnn_pack_f64)(cell, pass, threads, packed);
}
