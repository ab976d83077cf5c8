"""Steps of searches, given logits (N, V): see csrc/training/search.h."""

cdef extern from "training/search.h" nogil:
    ctypedef struct frnn_logits:
        frnn_dtype dtype
        int64_t rows, V
        const void *logits
        int64_t bans
        const int64_t *banned

    ctypedef struct frnn_beam_args:
        frnn_logits logits
        int64_t width, stop
        const double *scores
        const uint8_t *done
        int64_t *parents
        int64_t *ids
        double *best

    int64_t frnn_search_workspace(const frnn_logits *, int threads)
    void frnn_greedy(const frnn_logits *, int64_t *ids, int threads)
    void frnn_draw(const frnn_logits *, double temperature, const double *uniforms, int64_t *ids, int threads,
                   void *workspace)
    void frnn_beam(const frnn_beam_args *, int threads, void *workspace)


cdef frnn_logits unpack_logits(cnp.ndarray logits, cnp.ndarray banned):
    cdef frnn_logits result
    result.dtype, result.logits = dtype_of(logits), cnp.PyArray_DATA(logits)
    result.rows, result.V = cnp.PyArray_DIM(logits, 0), cnp.PyArray_DIM(logits, 1)
    result.bans, result.banned = cnp.PyArray_DIM(banned, 0), <const int64_t *> cnp.PyArray_DATA(banned)
    return result


def greedy(cnp.ndarray logits not None, cnp.ndarray banned not None, cnp.ndarray ids not None):
    """Write the id of each row's largest logit."""
    cdef frnn_logits unpacked = unpack_logits(logits, banned)
    cdef int64_t *found = <int64_t *> cnp.PyArray_DATA(ids)
    cdef int threads = allowed_threads()
    with nogil:
        frnn_greedy(&unpacked, found, threads)


def draw(
    cnp.ndarray logits not None, double temperature, cnp.ndarray uniforms not None, cnp.ndarray banned not None,
    cnp.ndarray ids not None,
):
    """Write an id for each row, drawn by its uniform number."""
    cdef frnn_logits unpacked = unpack_logits(logits, banned)
    cdef const double *numbers = <const double *> cnp.PyArray_DATA(uniforms)
    cdef int64_t *found = <int64_t *> cnp.PyArray_DATA(ids)
    cdef int threads = allowed_threads()
    cdef Workspace workspace = Workspace()
    workspace.reserve(frnn_search_workspace(&unpacked, threads))
    with nogil:
        frnn_draw(&unpacked, temperature, numbers, found, threads, workspace.data)


def beam(
    cnp.ndarray logits not None, cnp.ndarray scores not None, cnp.ndarray done not None, cnp.ndarray banned not None,
    int64_t stop, cnp.ndarray parents not None, cnp.ndarray ids not None, cnp.ndarray best not None,
):
    """Write parents, ids and scores (groups, width) of the best sequences that are one id longer."""
    cdef frnn_beam_args args
    args.logits = unpack_logits(logits, banned)
    args.width, args.stop = cnp.PyArray_DIM(scores, 1), stop
    args.scores, args.done = <const double *> cnp.PyArray_DATA(scores), <const uint8_t *> cnp.PyArray_DATA(done)
    args.parents, args.ids = <int64_t *> cnp.PyArray_DATA(parents), <int64_t *> cnp.PyArray_DATA(ids)
    args.best = <double *> cnp.PyArray_DATA(best)
    cdef int threads = allowed_threads()
    cdef Workspace workspace = Workspace()
    workspace.reserve(frnn_search_workspace(&args.logits, threads))
    with nogil:
        frnn_beam(&args, threads, workspace.data)
