#include "../f32.h"

#include "sequence_body.h"
