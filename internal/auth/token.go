package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
)

// tokenPrefix lets scanners for secrets know a token when they see one.
const tokenPrefix = "chs_"

// maxToken is longer than any token.
const maxToken = 64

// NewToken makes a token with 130 bits of randomness. Only its hash is to be kept.
func NewToken() string { return tokenPrefix + rand.Text() }

// HashToken is what the state keeps of a token; ok is false for what NewToken cannot have made.
func HashToken(token string) (hash []byte, ok bool) {
	if len(token) > maxToken || !strings.HasPrefix(token, tokenPrefix) {
		return nil, false
	}
	sum := sha256.Sum256([]byte(token))
	return sum[:], true
}
