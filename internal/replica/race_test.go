//go:build race

package replica

// The race detector makes fake time eight times slower.
const defaultSeeds = 6
