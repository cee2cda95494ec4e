//go:build !race

package replica

const (
	defaultSeeds = 40
	defaultCuts  = 1
	defaultFlips = 1000
)
