#include "../f64.h"

#include "sequence_body.h"
