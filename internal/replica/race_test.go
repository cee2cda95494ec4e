//go:build race

package replica

// The race detector makes fake time eight times slower.
const (
	defaultSeeds = 6
	defaultCuts  = 16
	defaultFlips = 100
)
