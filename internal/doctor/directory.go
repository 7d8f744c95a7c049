package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// checkDirectories looks at the data directory and at what is in it.
func (d *doctor) checkDirectories(context.Context) []Finding {
	const name = "data directory"
	dir := d.cfg.DataDir
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		parent := existing(dir)
		if err := tryWrite(parent); err != nil {
			return []Finding{fail(name, fmt.Sprintf("%s doesn't exist and can't be created: %v", dir, err),
				"create it for meterd's user: install -d -m 0700 -o USER "+dir)}
		}
		return []Finding{ok(name, dir+" doesn't exist yet; meterd serve will create it")}
	}
	if err != nil {
		return []Finding{fail(name, err.Error(), "run doctor as meterd's user, or mend the permissions of the path")}
	}
	if !info.IsDir() {
		return []Finding{fail(name, dir+" is not a directory", "move the file away or set data_dir to another path")}
	}
	if err := tryWrite(dir); err != nil {
		return []Finding{fail(name, fmt.Sprintf("%s can't be written: %v", dir, err), writeAdvice(err, dir))}
	}
	findings := []Finding{ownership(name, dir, info)}
	for _, sub := range []string{"spool", "engine"} {
		if f, bad := subdirectory(name, filepath.Join(dir, sub)); bad {
			findings = append(findings, f)
		}
	}
	return findings
}

// ownership looks at whose the directory is and who else may look into it.
func ownership(name, dir string, info fs.FileInfo) Finding {
	mode := info.Mode().Perm()
	found := fmt.Sprintf("%s, mode %04o, writable", dir, mode)
	owner, known := ownerOf(info)
	switch {
	case mode&0o022 != 0:
		return warn(name, found+", also by other users", "chmod 0700 "+dir)
	case mode&0o007 != 0:
		return warn(name, found+"; other users can look into it", "chmod 0700 "+dir)
	case known && owner != os.Geteuid():
		return warn(name, fmt.Sprintf("%s; it belongs to user %d, doctor runs as %d", found, owner, os.Geteuid()),
			"run doctor as the user that runs meterd serve, for example: sudo -u meterd meterd doctor")
	}
	return ok(name, found)
}

// subdirectory looks at a directory that the daemon made; one that isn't there yet is fine.
func subdirectory(name, dir string) (Finding, bool) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Finding{}, false
	case err != nil:
		return fail(name, err.Error(), "mend the permissions of "+dir), true
	case !info.IsDir():
		return fail(name, dir+" is not a directory", "move the file away"), true
	}
	if err := tryWrite(dir); err != nil {
		return fail(name, fmt.Sprintf("%s can't be written: %v", dir, err), writeAdvice(err, dir)), true
	}
	return Finding{}, false
}

// existing is the nearest directory above path that exists.
func existing(path string) string {
	for path != filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

// tryWrite creates a file in the directory and removes it. It asks the file system rather than the mode: read-only mounts
// and access lists don't show there.
func tryWrite(dir string) error {
	file, err := os.CreateTemp(dir, ".meterd-doctor-*")
	if err != nil {
		return cause(err)
	}
	return errors.Join(cause(file.Close()), cause(os.Remove(file.Name())))
}

// cause is an error of the file system without operation and path, which the finding names itself.
func cause(err error) error {
	if path, isPath := errors.AsType[*fs.PathError](err); isPath {
		return path.Err
	}
	return err
}

func writeAdvice(err error, dir string) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "the file system is mounted read-only; remount it, or set data_dir to another one"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on the file system"
	case errors.Is(err, fs.ErrPermission):
		return "run doctor as meterd's user, or give the directory to it: chown USER " + strconv.Quote(dir)
	}
	return "mend the file system or set data_dir to another one"
}

// ownerOf is the user that a file belongs to.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	stat, isStat := info.Sys().(*syscall.Stat_t)
	if !isStat {
		return 0, false
	}
	return int(stat.Uid), true
}
