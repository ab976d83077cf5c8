#include "../f32.h"

#include "training_body.h"
