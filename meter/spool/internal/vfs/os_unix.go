//go:build unix

package vfs

import (
	"os"
	"syscall"
)

func flock(f *os.File) error {
	return control(f, func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
}
