package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"example.com/chat"
)

// steps are what to do next, by the cause of an error.
var steps = []struct {
	cause error
	step  string
}{
	{syscall.ENOSPC, "free some space there and start it again: what was acknowledged is kept"},
	{syscall.EROFS, "choose a directory that can be written to"},
	{fs.ErrPermission, "run it as a user that may read and write there, or choose another place"},
	{chat.ErrOtherNode, "start it with the --id of that node, or choose another --data-dir"},
	{chat.ErrDataDirInUse, "end the process that has it, or choose another --data-dir"},
}

// advise adds the next step to an error that has one.
func advise(err error) error {
	for _, s := range steps {
		if errors.Is(err, s.cause) {
			return fmt.Errorf("%w; %s", err, s.step)
		}
	}
	return err
}
