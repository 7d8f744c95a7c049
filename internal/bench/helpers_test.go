package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer is a buffer that a server writes while a test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// awaitLine returns the first line.
func (b *lockedBuffer) awaitLine(t *testing.T) string {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		b.mu.Lock()
		line, _, ok := strings.Cut(b.buf.String(), "\n")
		b.mu.Unlock()
		if ok {
			return line
		}
		<-ticker.C
	}
	t.Fatal("no line within 10 s")
	return ""
}
