package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// body is a request's body in memory from a pool.
type body struct{ data []byte }

// keptBody bounds what the pool holds on to; most batches are smaller.
const keptBody = 4 << 20

var bodies = sync.Pool{New: func() any { return new(body) }}

// release returns the body to the pool. Its data must not be used afterwards.
func (b *body) release() {
	if cap(b.data) <= keptBody {
		b.data = b.data[:0]
		bodies.Put(b)
	}
}

// readBody reads the whole body, decompressed, within the time and size permitted.
func (a *API) readBody(w *response, r *http.Request) (*body, error) {
	if r.ContentLength > a.o.MaxBody {
		return nil, tooLarge("the body has %d bytes; at most %d are taken, send smaller batches", r.ContentLength, a.o.MaxBody)
	}
	b := bodies.Get().(*body)
	b.data = b.data[:0]
	if r.ContentLength == 0 {
		w.bodyRead = true
		return b, nil
	}
	// Not every writer has deadlines (a test's recorder); the handler's context bounds those.
	_ = w.control.SetReadDeadline(machineTime().Add(a.o.RequestTimeout))
	err := a.fill(b, r)
	if err != nil {
		b.release()
		return nil, bodyError(err)
	}
	w.bodyRead = true
	_ = w.control.SetReadDeadline(zeroTime)
	return b, nil
}

// fill reads the body into b.
func (a *API) fill(b *body, r *http.Request) error {
	encodings, err := contentEncodings(r.Header)
	if err != nil {
		return err
	}
	if encodings != "" {
		return a.fillDecompressed(b, r, encodings)
	}
	if n := int(r.ContentLength); n > 0 {
		if cap(b.data) < n {
			b.data = make([]byte, n)
		}
		b.data = b.data[:n]
		if _, err := io.ReadFull(r.Body, b.data); err != nil {
			return err
		}
		return nil
	}
	if err := b.readUpTo(r.Body, a.o.MaxBody); errors.Is(err, errTooMuch) {
		return tooLarge("the body has more than %d bytes; send smaller batches", a.o.MaxBody)
	} else if err != nil {
		return err
	}
	return nil
}

func (a *API) fillDecompressed(b *body, r *http.Request, encoding string) error {
	reader, done, err := decompressor(io.LimitReader(r.Body, a.o.MaxBody+1), encoding, a.o.MaxBody)
	if err != nil {
		return err
	}
	defer done()
	if err := b.readUpTo(reader, a.o.MaxBody); errors.Is(err, errTooMuch) || errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return tooLarge("the body has more than %d bytes after decompression; send smaller batches", a.o.MaxBody)
	} else if err != nil {
		return err
	}
	return nil
}

var errTooMuch = errors.New("more than permitted")

// readUpTo reads to the end, or fails with errTooMuch after limit bytes.
func (b *body) readUpTo(r io.Reader, limit int64) error {
	if cap(b.data) == 0 {
		b.data = make([]byte, 0, 16<<10)
	}
	for {
		if len(b.data) == cap(b.data) {
			b.data = append(b.data, 0)[:len(b.data)]
		}
		n, err := r.Read(b.data[len(b.data):cap(b.data)])
		b.data = b.data[:len(b.data)+n]
		if int64(len(b.data)) > limit {
			return errTooMuch
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// contentEncodings returns "", "gzip" or "zstd", or why the body's encoding isn't taken.
func contentEncodings(h http.Header) (string, error) {
	values := h["Content-Encoding"]
	if len(values) == 0 {
		return "", nil
	}
	found := ""
	for name := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case name == "" || name == "identity":
		case found != "":
			return "", unsupported("the body is encoded more than once; use either gzip or zstd")
		case name == "gzip" || name == "x-gzip":
			found = "gzip"
		case name == "zstd":
			found = name
		default:
			return "", unsupported("the content encoding %s isn't known; use gzip or zstd", quoteShort(name))
		}
	}
	return found, nil
}

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zstdReaders sync.Pool // *zstd.Decoder
)

// errCompressed marks a body that its encoding can't be read from.
var errCompressed = errors.New("broken compression")

// decompressor wraps a compressed body. done gives the decoder back to its pool. Whoever reads bounds how much; maxWindow
// bounds what a zstd frame may make the decoder allocate.
func decompressor(r io.Reader, encoding string, maxWindow int64) (reader io.Reader, done func(), err error) {
	if encoding == "gzip" {
		z := gzipReaders.Get().(*gzip.Reader)
		if err := z.Reset(r); err != nil {
			gzipReaders.Put(z)
			return nil, nil, compressedError(err)
		}
		return compressedReader{z}, func() { gzipReaders.Put(z) }, nil
	}
	z, _ := zstdReaders.Get().(*zstd.Decoder)
	if z == nil {
		window := uint64(min(max(maxWindow, 1<<20), 64<<20))
		// One goroutine: the decoder works in Read, so that bytes are delivered as they arrive and nothing outlives the request.
		z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, fmt.Errorf("make zstd decoder: %w", err)
		}
	}
	if err := z.Reset(r); err != nil {
		return nil, nil, compressedError(err)
	}
	return compressedReader{z}, func() {
		if z.Reset(nil) == nil {
			zstdReaders.Put(z)
		}
	}, nil
}

// compressedReader tells errors of the compression from those of the connection.
type compressedReader struct{ io.Reader }

// Read reads decompressed bytes.
func (c compressedReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return n, err
	}
	return n, compressedError(err)
}

// compressedError marks an error as one of the compression unless it comes from the connection.
func compressedError(err error) error {
	if isConnectionError(err) || errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", errCompressed, err)
}

// bodyError turns an error of reading the body into the answer.
func bodyError(err error) error {
	var p *problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, errCompressed):
		return invalidRequest("the body can't be decompressed; it is broken or not of the Content-Encoding it names")
	case isConnectionError(err):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &problem{Status: http.StatusBadRequest, Code: "invalid-request", Detail: "the body ended before its Content-Length", Close: true}
	default:
		return &problem{Status: http.StatusBadRequest, Code: "invalid-request", Detail: "the body can't be read: " + quoteShort(err.Error()), Close: true}
	}
}

// trimSpace returns the body without white space around it.
func (b *body) trimSpace() []byte { return bytes.TrimSpace(b.data) }
