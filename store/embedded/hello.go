package embedded

import (
	"errors"
	"fmt"
	"strings"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// helloQuery is what clickhouse-go asks first on every connection.
const helloQuery = "SELECT displayName(), version(), revision(), timezone()"

// hello is the engine's answer to helloQuery, but for the revision.
type hello struct{ name, version, zone string }

// readHello asks the engine once; its answer does not change while it runs.
func readHello(c *conn) (hello, error) {
	lines, err := c.lines("SELECT arrayJoin([displayName(), version(), timezone()])")
	if err != nil {
		return hello{}, fmt.Errorf("ask engine for its version: %w", err)
	}
	if len(lines) != 3 {
		return hello{}, fmt.Errorf("ask engine for its version: unexpected answer %q", lines)
	}
	return hello{lines[0], lines[1], lines[2]}, nil
}

func isHello(sql string) bool { return strings.TrimSpace(sql) == helloQuery }

// encode writes the answer as a Native block in the layout of the revision that the driver assumes until it has read
// it (its parameter client_protocol_version). The answer tells it revision 0: from then on it reads blocks without
// block info, as this engine's Native format writes them.
func (h hello) encode(revision uint64) ([]byte, error) {
	block := proto.NewBlock()
	err := errors.Join(
		block.AddColumn("displayName()", "String"),
		block.AddColumn("version()", "String"),
		block.AddColumn("revision()", "UInt32"),
		block.AddColumn("timezone()", "String"),
	)
	if err == nil {
		err = block.Append(h.name, h.version, uint32(0), h.zone)
	}
	var buf chproto.Buffer
	if err == nil {
		err = block.Encode(&buf, revision)
	}
	if err != nil {
		return nil, fmt.Errorf("encode hello: %w", err)
	}
	return buf.Buf, nil
}
