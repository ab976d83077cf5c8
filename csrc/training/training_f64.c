#include "../f64.h"

#include "training_body.h"
