package zaplog

import (
	"fmt"
	"io"
	"log"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewHC returns an hclog.Logger for raft.
func NewHC(l *zap.Logger) hclog.Logger { return hc{l: l} }

type hc struct {
	l    *zap.Logger
	name string
	args []any
}

var _ hclog.Logger = hc{}

func zapLevel(l hclog.Level) zapcore.Level {
	switch l {
	case hclog.Error:
		return zap.ErrorLevel
	case hclog.Warn:
		return zap.WarnLevel
	case hclog.Info:
		return zap.InfoLevel
	default:
		return zap.DebugLevel
	}
}

func (h hc) Log(level hclog.Level, msg string, args ...any) {
	if e := h.l.Check(zapLevel(level), msg); e != nil {
		e.Write(fields(args)...)
	}
}

// fields pairs names and values; hclog.Format is a value with a format of its own.
func fields(args []any) (f []zap.Field) {
	for i := 0; i+1 < len(args); i += 2 {
		v := args[i+1]
		if format, ok := v.(hclog.Format); ok && len(format) > 0 {
			v = fmt.Sprintf(fmt.Sprint(format[0]), format[1:]...)
		}
		f = append(f, zap.Any(fmt.Sprint(args[i]), v))
	}
	return f
}

func (h hc) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h hc) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h hc) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h hc) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h hc) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h hc) IsTrace() bool { return false }
func (h hc) IsDebug() bool { return h.l.Core().Enabled(zap.DebugLevel) }
func (h hc) IsInfo() bool  { return h.l.Core().Enabled(zap.InfoLevel) }
func (h hc) IsWarn() bool  { return h.l.Core().Enabled(zap.WarnLevel) }
func (h hc) IsError() bool { return h.l.Core().Enabled(zap.ErrorLevel) }

func (h hc) With(args ...any) hclog.Logger {
	return hc{h.l.With(fields(args)...), h.name, append(h.args[:len(h.args):len(h.args)], args...)}
}

func (h hc) Named(name string) hclog.Logger { return hc{h.l.Named(name), name, h.args} }

// ResetNamed cannot take names off a zap logger; it adds one.
func (h hc) ResetNamed(name string) hclog.Logger { return h.Named(name) }

func (h hc) ImpliedArgs() []any   { return h.args }
func (h hc) Name() string         { return h.name }
func (h hc) SetLevel(hclog.Level) {}

func (h hc) GetLevel() hclog.Level {
	switch {
	case h.IsDebug():
		return hclog.Debug
	case h.IsInfo():
		return hclog.Info
	case h.IsWarn():
		return hclog.Warn
	default:
		return hclog.Error
	}
}

func (h hc) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger { return NewStd(h.l) }
func (h hc) StandardWriter(*hclog.StandardLoggerOptions) io.Writer   { return stdWriter{h.l} }
