/* The cells, and what the drivers have to know about each of them.
 *
 * A cell is one file of this folder: its equations, its kernels forwards and backwards, and at its end its description.
 * A new cell is such a file and its name in the two lists here. The files are compiled for each dtype and instruction
 * set (kernels/kernels_body.h), which is why they are written in terms of `vec`, REAL and FN.
 */
#ifndef FRNN_CELLS_H
#define FRNN_CELLS_H

#define FRNN_CELLS(X)                                                                                                  \
    X(rnn_tanh)                                                                                                        \
    X(rnn_relu)                                                                                                        \
    X(lstm) X(lstm_coupled) X(gru_after) X(gru_before) X(slstm) X(min_gru) X(min_lstm)

#define FRNN_CELLS_COUNT_(cell) +1
#define FRNN_CELL_COUNT (0 FRNN_CELLS(FRNN_CELLS_COUNT_))

#define FRNN_MOST_PEEPHOLES 3

/* A peephole weighs a cell state in the pre-activation of one gate. */
typedef struct {
    int gate;
    int sees_new; /* c_t; else c_{t-1} */
} frnn_peephole;

/* A block is H values of one kind, in the order of the weights' rows. Fields that are left out are 0. */
typedef struct {
    const char *name;
    int gates;    /* G: blocks of rows in w_ih and w_hh */
    int apart;    /* the last gates, of which W x + b_ih and U h + b_hh stay apart: W x comes `apart` blocks later */
    int reset;    /* the last gates, whose U acts on r*h_{t-1}; r is the first gate, and the first that is recorded */
    int recorded; /* K: blocks of a row of a tape's gates */
    int has_c;    /* S: blocks of H values in the state c_t that there is besides h_t; 0 where there is none */
    int around;   /* h_{t-1} also reaches h_t around the matrices: the backward kernel leaves that gradient in dh */
    int reads_h, reads_h_prev; /* the backward kernel reads h_t, or h_{t-1} */
    int output_gate;           /* of a cell that may be projected: which recorded gate multiplies tanh(c_t) */
    int peepholes;             /* rows of w_peephole */
    frnn_peephole peephole[FRNN_MOST_PEEPHOLES];
    double gate_time; /* of the cost model: nanoseconds a unit takes in the forward kernel, in a vector of one lane */
    int unconnected;  /* gates do not see h_{t-1}: there are no w_hh and b_hh, and no unit needs another one's state */
} frnn_description;

/* Blocks of pre-activations in a row. */
static inline int frnn_blocks(const frnn_description *is) { return is->gates + is->apart; }

/* Of a kind, as frnn_kind gives it; null beyond the last. */
const frnn_description *frnn_describe(int kind);

#endif

#ifdef FRNN_CELL_KERNELS /* by kernels_body.h, for one dtype and instruction set */
#include "gru.h"
#include "lstm.h"
#include "lstm_coupled.h"
#include "min_gru.h"
#include "min_lstm.h" /* after min_gru.h, whose candidate it has */
#include "rnn.h"
#include "slstm.h"
#endif
