// Package zaplog puts one *zap.Logger behind the three kinds of logger that our dependencies take.
package zaplog

import (
	"bytes"
	"fmt"
	"log"
	"runtime"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewStd returns a log.Logger for memberlist, whose lines begin with a level in brackets.
func NewStd(l *zap.Logger) *log.Logger { return log.New(stdWriter{l}, "", 0) }

type stdWriter struct{ l *zap.Logger }

var levels = []struct {
	prefix []byte
	level  zapcore.Level
}{
	{[]byte("[DEBUG] "), zap.DebugLevel},
	{[]byte("[INFO] "), zap.DebugLevel}, // what memberlist tells, nobody has to act on
	{[]byte("[WARN] "), zap.WarnLevel},
	{[]byte("[ERR] "), zap.ErrorLevel},
	{[]byte("[ERROR] "), zap.ErrorLevel},
}

func (w stdWriter) Write(line []byte) (int, error) {
	text, level := bytes.TrimSpace(line), zap.DebugLevel
	for _, l := range levels {
		if rest, ok := bytes.CutPrefix(text, l.prefix); ok {
			text, level = rest, l.level
			break
		}
	}
	w.l.Log(level, string(text))
	return len(line), nil
}

// Pebble is a pebble.Logger. Pebble calls Fatalf when it cannot go on, and counts on its not
// returning; its own logger ends the process there. This one tells the node and ends the
// goroutine.
type Pebble struct {
	L     *zap.Logger
	Fatal func(error)
}

func (p Pebble) Infof(format string, args ...any)  { p.L.Debug(fmt.Sprintf(format, args...)) }
func (p Pebble) Errorf(format string, args ...any) { p.L.Error(fmt.Sprintf(format, args...)) }

// Fatalf does not return.
func (p Pebble) Fatalf(format string, args ...any) {
	p.Fatal(fmt.Errorf("pebble: "+format, args...))
	runtime.Goexit()
}
