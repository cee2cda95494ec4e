//go:build !linux

package files

import "github.com/cockroachdb/pebble/v2/vfs"

func syncData(f vfs.File) error { return f.SyncData() }
