/* The C interface, fastrnn/include/fastrnn/capi.h: a table of functions that check what extensions of others give. */
#ifndef FRNN_INTERFACE_H
#define FRNN_INTERFACE_H

#include "../../fastrnn/include/fastrnn/capi.h"
#include "../sequence/stack.h"

/* What the interface needs of Python. */
typedef struct {
    int (*num_threads)(void); /* how many a call from this thread may use */
    FastRNN_Layer *(*layer_from_object)(struct _object *frozen);
} frnn_python;

/* The table. */
const FastRNN_API *frnn_interface(frnn_python python);

/* A layer of packed cells: it owns their packed weights, too, and copies the rest. The initial state (L*D, O) and (L*D,
 * H), or nulls. Null if there is no memory. */
FastRNN_Layer *frnn_layer_new(const frnn_stack *stack, const void *initial_h, const void *initial_c);

/* Is the calling thread in a call of the interface? Then it is not to be asked whether the call is to stop, for that
 * would wait for the GIL. */
int frnn_interface_runs(void);

#endif
