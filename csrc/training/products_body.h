/* Products of row-major matrices, for one dtype. Included by training_body.h. */

/* A task is so many rows of one product by so many of its columns; its share of the right-hand factor is packed in
 * pieces of PIECE_K rows, which stay in L2 while all rows of the task read them. */
#define TASK_ROWS 48
#define TASK_COLUMNS 64
#define PIECE_K 512
/* More rows or columns than this are more tasks than one. */
#define TASK_MOST 8192
/* So many rows are converted at a time for narrow weights. */
#define NARROW_ROWS 1024

/* About how many nanoseconds `operations` take one thread. */
static int64_t FN(product_time)(double operations) { return (int64_t)(operations / (9.6 * (double)FN(lanes)())); }

/* In values: room for a packed matrix (rows, columns). */
static int64_t FN(packed_room)(int64_t rows, int64_t columns) {
    return FN(vectors)(columns) * (rows + 1) * FN(lanes)();
}

/* C (M, N) = A R (+ bias, if there is one): A (M, K) is row-major, R is B (K, N), or if `transposed` the transpose of B
 * (N, K). If `packed` is not null, it is R, packed before as `storage` says; if that is narrow, `converted` is A, too.
 */
typedef struct {
    int64_t M, N, K;
    const REAL *A, *B, *bias;
    const char *packed;
    frnn_storage storage;
    char *converted;
    int transposed;
    REAL *C;
    REAL *pieces; /* a member's each */
    frnn_tasks *tasks;
} FN(matrix_product);

static int64_t FN(piece_room)(int64_t K) { return FN(packed_room)(FRNN_MIN(K, PIECE_K), TASK_COLUMNS); }

/* Rows m0..m1-1 of columns n0..n1-1. */
static void FN(product_task)(const FN(matrix_product) *run, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                             REAL *piece) {
    const int64_t lanes = FN(lanes)(), size = run->packed ? run->K : FRNN_MIN(run->K, PIECE_K);
    const PACKING *packing = &frnn_kernels()->KERNELS_OF.packings[run->packed ? run->storage : STORED_AS_IS];
    product p = {.rows = m1 - m0, .columns = n1 - n0, .a_row = run->K, .a_vector = lanes, .R = piece};
    p.stride = (size + 1) * lanes, p.beta = run->bias != NULL;
    p.C = run->C + m0 * run->N + n0, p.ldc = run->N, p.c_vector = lanes;
    if (run->packed) p.R = run->packed + n0 / lanes * FN(packed_vector)(packing, run->K);
    for (int64_t m = 0; run->bias && m < p.rows; m++)
        memcpy(p.C + m * p.ldc, run->bias + n0, (size_t)p.columns * sizeof(REAL));
    if (run->converted) {
        p.K = run->K, p.a_row = FRNN_ROW_BYTES(packing, run->K), p.stride = FN(packed_vector)(packing, run->K);
        p.A = (const REAL *)(const void *)(run->converted + m0 * p.a_row);
        packing->multiply(&p);
        return;
    }
    for (int64_t k = 0; k < run->K; k += size, p.beta = 1) {
        p.K = FRNN_MIN(size, run->K - k), p.A = run->A + m0 * run->K + k;
        if (!run->packed && run->transposed)
            packing->pack(1, p.K, p.columns, run->B + n0 * run->K + k, run->K, piece, p.stride);
        else if (!run->packed)
            packing->pack(0, p.K, p.columns, run->B + k * run->N + n0, run->N, piece, p.stride);
        packing->multiply(&p);
    }
}

/* Into how many parts of at least `grain` each of `blocks` blocks of n is cut, so that all members have work, and no
 * task is so long that its caller cannot stop the call. */
static int64_t FN(parts)(int64_t n, int64_t grain, int64_t blocks, const frnn_team *team) {
    const int64_t short_enough = (n + TASK_MOST - 1) / TASK_MOST;
    if (team->size == 1) return FRNN_MAX(1, short_enough);
    const int64_t busy = FRNN_MIN((n + grain - 1) / grain, (4 * team->size + blocks - 1) / blocks);
    return FRNN_MAX(FRNN_MAX(1, short_enough), busy);
}

/* Tasks are columns; where there are few of them, parts of their rows. */
static void FN(product_share)(const FN(matrix_product) *run, frnn_round *round, const frnn_team *team) {
    const int64_t columns = (run->N + TASK_COLUMNS - 1) / TASK_COLUMNS;
    const int64_t parts = FN(parts)(run->M, TASK_ROWS, columns, team);
    REAL *piece = run->pieces + team->index * FN(piece_room)(run->K);
    FRNN_FOR_TASKS(task, run->tasks, parts * columns, round, team) {
        const int64_t n = task / parts * TASK_COLUMNS;
        const frnn_range rows = frnn_share(run->M, 1, (int)(task % parts), (int)parts);
        if (rows.first < rows.end)
            FN(product_task)(run, rows.first, rows.end, n, FRNN_MIN(n + TASK_COLUMNS, run->N), piece);
    }
}

static void FN(product_work)(void *context, const frnn_team *team) {
    frnn_round round = 0;
    FN(product_share)(context, &round, team);
}

/* ---- Linear layers ---- */

int64_t FN(frnn_linear_workspace)(int64_t I, int threads) {
    return threads * FN(piece_room)(I) * (int64_t)sizeof(REAL);
}

void FN(frnn_linear)(int64_t N, int64_t I, int64_t O, const REAL *x, const REAL *weight, const REAL *bias, REAL *y,
                     int threads, void *workspace) {
    FN(matrix_product) run = {.M = N, .N = O, .K = I, .A = x, .B = weight, .transposed = 1, .bias = bias, .C = y};
    frnn_tasks tasks = {0};
    run.pieces = workspace, run.tasks = &tasks;
    frnn_team_run(threads, FN(product_time)(2.0 * (double)N * (double)O * (double)I), FN(product_work), &run);
}

int64_t FN(frnn_linear_pack_bytes)(frnn_storage storage, int64_t I, int64_t O) {
    return FN(vectors)(O) * FN(packed_vector)(&frnn_kernels()->KERNELS_OF.packings[storage], I);
}

typedef struct {
    frnn_storage storage;
    int64_t I, O;
    const void *weight;
    const float *scales;
    char *packed;
} FN(linear_pack);

static void FN(linear_pack_work)(void *context, const frnn_team *team) {
    const FN(linear_pack) *run = context;
    const PACKING *packing = &frnn_kernels()->KERNELS_OF.packings[run->storage];
    const int64_t lanes = FN(lanes)(), vector = FN(packed_vector)(packing, run->I);
    const frnn_range mine = frnn_share(run->O, lanes, team->index, team->size);
    for (int64_t n = mine.first; n < mine.end; n += lanes) {
        const int64_t columns = FRNN_MIN(lanes, mine.end - n);
        const char *weight = (const char *)run->weight + n * run->I * packing->bytes;
        char *to = run->packed + n / lanes * vector;
        if (packing->pack_narrow)
            packing->pack_narrow(run->I, columns, weight, run->scales ? run->scales + n : NULL, to);
        else
            packing->pack(1, run->I, columns, (const REAL *)(const void *)weight, run->I, to, vector / packing->bytes);
    }
}

void FN(frnn_linear_pack)(frnn_storage storage, int64_t I, int64_t O, const void *weight, const float *scales,
                          int threads, void *packed) {
    FN(linear_pack) run = {storage, I, O, weight, scales, packed};
    frnn_team_run(threads, I * O / 4, FN(linear_pack_work), &run);
}

int64_t FN(frnn_linear_packed_workspace)(frnn_storage storage, int64_t N, int64_t I) {
    const PACKING *packing = &frnn_kernels()->KERNELS_OF.packings[storage];
    return packing->convert ? FRNN_MIN(N, NARROW_ROWS) * FRNN_ROW_BYTES(packing, I) : 0;
}

/* Rows are converted and multiplied by turns. */
static void FN(narrow_work)(void *context, const frnn_team *team) {
    const FN(matrix_product) *run = context;
    const PACKING *packing = &frnn_kernels()->KERNELS_OF.packings[run->storage];
    const int64_t row = FRNN_ROW_BYTES(packing, run->K);
    frnn_round round = 0;
    for (int64_t m = 0; m < run->M; m += NARROW_ROWS) {
        FN(matrix_product) part = *run;
        part.M = FRNN_MIN(NARROW_ROWS, run->M - m), part.A += m * run->K, part.C += m * run->N;
        const frnn_range mine = frnn_share(part.M, 1, team->index, team->size);
        for (int64_t i = mine.first; i < mine.end; i++)
            packing->convert(run->K, part.A + i * run->K, run->converted + i * row);
        frnn_team_barrier(team);
        FN(product_share)(&part, &round, team);
        if (m + part.M < run->M) frnn_team_barrier(team);
    }
}

void FN(frnn_linear_packed)(frnn_storage storage, int64_t N, int64_t I, int64_t O, const REAL *x, const void *packed,
                            const REAL *bias, REAL *y, int threads, void *workspace) {
    const PACKING *packing = &frnn_kernels()->KERNELS_OF.packings[storage];
    FN(matrix_product) run = {
        .M = N, .N = O, .K = I, .A = x, .packed = packed, .storage = storage, .bias = bias, .C = y};
    frnn_tasks tasks = {0};
    run.tasks = &tasks, run.converted = packing->convert ? workspace : NULL;
    /* a few rows take as long as it takes to read the weights */
    const double operations = 2.0 * (double)FRNN_MAX(N, 6) * (double)O * (double)I / packing->rate;
    frnn_team_run(threads, FN(product_time)(operations), packing->convert ? FN(narrow_work) : FN(product_work), &run);
}

typedef struct {
    FN(matrix_product) dx; /* dy W; C is null if it is not wanted */
    int64_t N, I, O;
    const REAL *x, *dy;
    REAL *dweight, *dbias;
    REAL *packed_x;
    REAL *columns_of_dy; /* a member's each: packed */
} FN(linear_backward_run);

static size_t FN(linear_backward_layout)(FN(linear_backward_run) *run, int threads, char *base) {
    size_t used = 0;
    run->packed_x = FN(take)(base, &used, FN(packed_room)(run->N, run->I));
    run->columns_of_dy = FN(take)(base, &used, threads * FN(packed_room)(run->N, TASK_ROWS));
    run->dx.pieces = FN(take)(base, &used, threads * FN(piece_room)(run->O));
    return used;
}

static void FN(linear_backward_work)(void *context, const frnn_team *team) {
    const FN(linear_backward_run) *run = context;
    const KERNELS *kernels = &frnn_kernels()->KERNELS_OF;
    const PACKING *packing = &kernels->packings[STORED_AS_IS];
    const int64_t lanes = FN(lanes)(), N = run->N, I = run->I, O = run->O, stride = (N + 1) * lanes;
    const frnn_range mine = frnn_share(I, lanes, team->index, team->size);
    if (mine.first < mine.end)
        packing->pack(0, N, mine.end - mine.first, run->x + mine.first, I, run->packed_x + mine.first / lanes * stride,
                      stride);
    frnn_round round = 0;
    if (run->dx.C) FN(product_share)(&run->dx, &round, team);
    frnn_team_barrier(team);
    REAL *columns = run->columns_of_dy + team->index * FN(packed_room)(N, TASK_ROWS);
    const int64_t blocks = (O + TASK_ROWS - 1) / TASK_ROWS, parts = FN(parts)(I, TASK_COLUMNS, blocks, team);
    FRNN_FOR_TASKS(task, run->dx.tasks, parts * blocks, &round, team) {
        const int64_t o = task / parts * TASK_ROWS, count = FRNN_MIN(TASK_ROWS, O - o), part = task % parts;
        const frnn_range inputs = frnn_share(I, TASK_COLUMNS, (int)part, (int)parts);
        product p = {.rows = count, .columns = inputs.end - inputs.first, .K = N, .A = columns, .a_vector = stride};
        p.R = run->packed_x + inputs.first / lanes * stride, p.stride = stride;
        p.C = run->dweight + o * I + inputs.first, p.ldc = I, p.c_vector = lanes;
        packing->pack(0, N, count, run->dy + o, O, columns, stride);
        kernels->add_gradient(&p);
        if (!run->dbias || part > 0) continue;
        memset(run->dbias + o, 0, (size_t)count * sizeof(REAL));
        kernels->add_columns(N, count, columns, stride, run->dbias + o);
    }
}

static FN(linear_backward_run) FN(linear_backward_new)(int64_t N, int64_t I, int64_t O) {
    return (FN(linear_backward_run)){.N = N, .I = I, .O = O, .dx = {.M = N, .N = I, .K = O}};
}

int64_t FN(frnn_linear_backward_workspace)(int64_t N, int64_t I, int64_t O, int threads) {
    FN(linear_backward_run) run = FN(linear_backward_new)(N, I, O);
    return (int64_t)FN(linear_backward_layout)(&run, threads, NULL);
}

void FN(frnn_linear_backward)(int64_t N, int64_t I, int64_t O, const REAL *x, const REAL *weight, const REAL *dy,
                              REAL *dx, REAL *dweight, REAL *dbias, int threads, void *workspace) {
    FN(linear_backward_run) run = FN(linear_backward_new)(N, I, O);
    FN(linear_backward_layout)(&run, threads, workspace);
    run.x = x, run.dy = dy, run.dweight = dweight, run.dbias = dbias;
    frnn_tasks tasks = {0};
    run.dx.A = dy, run.dx.B = weight, run.dx.C = dx, run.dx.tasks = &tasks;
    frnn_team_run(threads, FN(product_time)(4.0 * (double)N * (double)O * (double)I), FN(linear_backward_work), &run);
}

#undef TASK_ROWS
#undef TASK_COLUMNS
#undef PIECE_K
#undef TASK_MOST
#undef NARROW_ROWS
