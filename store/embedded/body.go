package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// bodyInMemory is the size up to which a request's rows stay in an anonymous memory file; larger ones move to an
// unlinked file in the data directory, where the kernel may write them back.
const bodyInMemory = 64 << 20

// body is the rows of one insert in a file without a name, which the engine opens through /proc/self/fd.
type body struct {
	file *os.File
	size int64
}

// readBody copies src into an anonymous file, in memory of the size of one copy buffer beside the file. The error is
// an *Error when the rows exceed limit bytes.
func readBody(src io.Reader, dir string, limit int64) (*body, error) {
	fd, err := unix.MemfdCreate("meterd-insert", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create memory file: %w", err)
	}
	b := &body{file: os.NewFile(uintptr(fd), "meterd-insert")}
	if err := b.fill(io.LimitReader(src, limit+1), dir); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if b.size > limit {
		return nil, errors.Join(bridgeError(codeTooLarge, "insert is larger than %d bytes: send fewer rows at once. (TOO_MANY_BYTES)", limit), b.close())
	}
	return b, nil
}

func (b *body) fill(src io.Reader, dir string) error {
	n, err := io.Copy(b.file, io.LimitReader(src, bodyInMemory))
	b.size = n
	if err != nil {
		return fmt.Errorf("store rows in memory: %w", err)
	}
	if n < bodyInMemory {
		return nil
	}
	memory := b.file
	defer memory.Close()
	// O_TMPFILE needs a file system that knows it (ext4, xfs, btrfs, tmpfs do).
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create file for rows in %s: %w", dir, err)
	}
	b.file = os.NewFile(uintptr(fd), "meterd-insert")
	if _, err := memory.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("move rows to disk: %w", err)
	}
	if n, err = io.Copy(b.file, memory); err != nil {
		return fmt.Errorf("move rows to disk: %w", err)
	}
	rest, err := io.Copy(b.file, src)
	if err != nil {
		return fmt.Errorf("store rows on disk: %w", err)
	}
	b.size = n + rest
	return nil
}

// path is where the engine, in this same process, finds the rows.
func (b *body) path() string { return fmt.Sprintf("/proc/self/fd/%d", b.file.Fd()) }

func (b *body) close() error { return b.file.Close() }

// blockHead is what the first block of a Native body announces. clickhouse-go sends one block an insert, so rows is
// the number of rows sent, counted independently of the engine.
type blockHead struct{ columns, rows uint64 }

func (b *body) head() (blockHead, error) {
	bytes := make([]byte, 2*binary.MaxVarintLen64)
	n, err := b.file.ReadAt(bytes, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return blockHead{}, fmt.Errorf("read rows: %w", err)
	}
	return parseBlockHead(bytes[:n])
}

// parseBlockHead parses the head of a Native block: number of columns, number of rows.
func parseBlockHead(bytes []byte) (blockHead, error) {
	columns, n := binary.Uvarint(bytes)
	if n <= 0 || columns == 0 || columns > 10_000 {
		return blockHead{}, bridgeError(codeBadArguments, "body is not in FORMAT Native: no block with columns. (BAD_ARGUMENTS)")
	}
	rows, m := binary.Uvarint(bytes[n:])
	if m <= 0 {
		return blockHead{}, bridgeError(codeBadArguments, "body is not in FORMAT Native: its first block has no row count. (BAD_ARGUMENTS)")
	}
	return blockHead{columns, rows}, nil
}
