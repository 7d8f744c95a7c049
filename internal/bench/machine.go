package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine is where the figures come from.
type machine struct {
	Cores       int     `json:"cores"`
	Processor   string  `json:"processor"`
	MemoryBytes uint64  `json:"memory_bytes"`
	FileSystem  string  `json:"file_system"`
	GoVersion   string  `json:"go_version"` // of this program
	Load        float64 `json:"load_before"`
	LoadAfter   float64 `json:"load_after"`
}

func describeMachine(work string) machine {
	m := machine{Cores: runtime.NumCPU(), Processor: processorName(), FileSystem: fileSystem(work), GoVersion: runtime.Version(), Load: loadAverage()}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		m.MemoryBytes = uint64(info.Totalram) * uint64(info.Unit) //nolint:unconvert // narrower on some machines
	}
	return m
}

func processorName() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // a name is good to have, no more
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// fileSystem names the kind of file system of a directory.
func fileSystem(dir string) string {
	var fs syscall.Statfs_t
	if syscall.Statfs(filepath.Clean(dir), &fs) != nil {
		return "unknown file system"
	}
	known := map[int64]string{0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs"}
	if name, ok := known[int64(fs.Type)]; ok { //nolint:unconvert // narrower on some machines
		return name
	}
	return "file system 0x" + strconv.FormatInt(int64(fs.Type), 16) //nolint:unconvert // as above
}

// loadAverage is that of the last minute; 0 when the kernel doesn't tell.
func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}

// othersBusy watches the processors for a moment in which this program and its children do nothing.
func othersBusy() float64 {
	const moment = 300 * time.Millisecond
	busy1, all1 := processorTicks()
	timer := time.NewTimer(moment)
	<-timer.C
	busy2, all2 := processorTicks()
	if all2 <= all1 {
		return 0
	}
	return (busy2 - busy1) / (all2 - all1)
}

// processorTicks are the ticks since boot in which the processors worked, and all.
func processorTicks() (busy, all float64) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil || i > 8 { // what follows is part of the user time
			continue
		}
		all += v
		if i != 4 && i != 5 { // idle, and waiting for the disk
			busy += v
		}
	}
	return busy, all
}
