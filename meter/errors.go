package meter

import "errors"

// ErrRefused marks an error of a store or marketplace that repeating the same call can't cure.
var ErrRefused = errors.New("refused")
