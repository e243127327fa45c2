#include "textflag.h"

// func Current() ID
TEXT ·Current(SB), NOSPLIT, $0-4
	MOVW g, ret+0(FP)
	RET
