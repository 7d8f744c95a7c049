package main

import (
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/store/embedded"
)

// newEngineCommand is the child process that the daemon starts for the embedded ClickHouse engine.
func newEngineCommand() *cobra.Command {
	var opts embedded.ServeOptions
	var lifeline bool
	cmd := &cobra.Command{
		Use:   "engine",
		Short: "Serve the embedded ClickHouse engine (started by the daemon itself)",
		Long: `engine loads the ClickHouse library and serves it on a unix socket in the data directory.
The daemon starts, watches and restarts it: there is no need to run it by hand, other than to look into the
data of a stopped daemon:

  meterd engine --data-dir DIR &
  curl --unix-socket DIR/engine.sock 'http://localhost/?default_format=PrettyCompact' -d 'SHOW DATABASES'

Exit codes: 0 stopped, 1 failure at run time, 2 wrong usage.`,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.DataDir == "" {
				return &usageError{errors.New("engine: --data-dir is required")}
			}
			library, err := embedded.FindLibrary(opts.Library)
			if err != nil {
				return err
			}
			opts.Library = library
			opts.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if lifeline {
				opts.Lifeline = cmd.InOrStdin()
			}
			return embedded.Serve(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.DataDir, "data-dir", "", "directory of the engine's data")
	flags.StringVar(&opts.Socket, "socket", "", "unix socket to serve (default engine.sock in the data directory)")
	flags.StringVar(&opts.Library, "library", "", "path of libchdb.so (default: searched for)")
	flags.IntVar(&opts.Connections, "connections", 0, "statements that run at once (default the larger of 4 and the CPUs)")
	flags.Int64Var(&opts.MemoryLimit, "memory-limit", 0, "engine memory in bytes (default half of the machine or container)")
	flags.Int64Var(&opts.MaxInsertBytes, "max-insert-bytes", 0, "largest body of one insert in bytes (default 1 GiB)")
	flags.BoolVar(&opts.NoFsync, "no-fsync", false, "do not wait for the disk: a power cut may lose confirmed rows")
	flags.BoolVar(&lifeline, "lifeline", false, "stop when standard input ends")
	return cmd
}
