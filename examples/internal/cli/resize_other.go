//go:build !unix

package cli

// onResize: nothing tells of it here. The size is right again at the next prompt.
func onResize(func()) (stop func()) { return func() {} }
