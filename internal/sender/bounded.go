package sender

import (
	"bytes"
	"fmt"
	"io"
)

// MaxEvent is the largest event or row that a source reads, in bytes.
const MaxEvent = 1 << 20

// boundedReader ends with an error when more than MaxEvent bytes were read since the last call of next. So a missing
// quote or brace can't make a parser collect the whole rest of the file.
type boundedReader struct {
	r    io.Reader
	left int
	// With lines set, the offsets of newlines are kept until they are passed; lineAt needs them.
	lines  bool
	offset int64   // bytes read so far
	ends   []int64 // offsets of newlines read but not passed
	passed int     // newlines passed
}

func newBoundedReader(r io.Reader, lines bool) *boundedReader {
	b := &boundedReader{r: r, lines: lines}
	b.next()
	return b
}

// next begins a new event. The parser reads ahead, hence the margin.
func (b *boundedReader) next() { b.left = MaxEvent + 64<<10 }

// Read implements io.Reader.
func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left == 0 && len(p) > 0 {
		return 0, fmt.Errorf("longer than %d bytes, or a quote or brace is never closed", MaxEvent)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	if b.lines {
		for at, rest := b.offset, p[:n]; ; {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			b.ends = append(b.ends, at+int64(i))
			at, rest = at+int64(i)+1, rest[i+1:]
		}
	}
	b.offset += int64(n)
	return n, err
}

// lineAt is the line of the byte at offset. Offsets must not decrease from call to call.
func (b *boundedReader) lineAt(offset int64) int {
	i := 0
	for i < len(b.ends) && b.ends[i] < offset {
		i++
	}
	b.passed += i
	b.ends = append(b.ends[:0], b.ends[i:]...)
	return b.passed + 1
}
