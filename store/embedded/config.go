package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// engineConfig is the engine's own configuration file. It is always given, so that the engine never picks up a
// config.xml of the working or home directory.
//
//   - No *_log section: none of the engine's system log tables exists, so none can grow.
//   - fsync: a confirmed insert survives a power cut (see durability); merged parts are synced too, because the
//     engine deletes their sources eight minutes later.
//   - Caches are sized for a small host; the engine's defaults are for a dedicated server.
func engineConfig(memoryLimit int64, noFsync bool) string {
	var b strings.Builder
	b.WriteString("<!-- Written by meterd at every start of the engine: changes are lost. -->\n<clickhouse>\n")
	element := func(name string, value any) { fmt.Fprintf(&b, "  <%s>%v</%[1]s>\n", name, value) }
	if memoryLimit > 0 {
		element("max_server_memory_usage", memoryLimit)
	} else {
		element("max_server_memory_usage_to_ram_ratio", "0.5")
	}
	element("timezone", "UTC")
	const mib = 1 << 20
	element("mark_cache_size", 128*mib)
	element("primary_index_cache_size", 128*mib)
	element("index_mark_cache_size", 32*mib)
	element("uncompressed_cache_size", 0)
	element("query_condition_cache_size", 16*mib)
	element("compiled_expression_cache_size", 32*mib)
	for _, unused := range []string{
		"vector_similarity_index_cache_size", "text_index_tokens_cache_size", "text_index_header_cache_size",
		"text_index_postings_cache_size", "iceberg_metadata_files_cache_size", "parquet_metadata_cache_size",
	} {
		element(unused, mib)
	}
	if !noFsync {
		b.WriteString("  <merge_tree>\n")
		for _, name := range []string{"fsync_after_insert", "fsync_part_directory", "min_compressed_bytes_to_fsync_after_merge"} {
			fmt.Fprintf(&b, "    <%s>1</%[1]s>\n", name)
		}
		b.WriteString("  </merge_tree>\n")
	}
	b.WriteString("</clickhouse>\n")
	return b.String()
}

// writeConfig stores the configuration in dir and returns its path.
func writeConfig(dir string, memoryLimit int64, noFsync bool) (string, error) {
	path := filepath.Join(dir, "engine.xml")
	if err := os.WriteFile(path, []byte(engineConfig(memoryLimit, noFsync)), 0o600); err != nil {
		return "", fmt.Errorf("write engine configuration: %w", err)
	}
	return path, nil
}
