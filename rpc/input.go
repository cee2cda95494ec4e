package rpc

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"golang.org/x/text/secure/precis"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcerr"
)

// Limits of what a request may say, beside those of package state.
const (
	minPassword = 8
	maxPassword = 1024
	defaultPage = 50
	maxPage     = 500
	// maxScan is how many records one call looks at, however few of them it returns.
	maxScan = 5000
	// maxInput is longer than any name or pattern that makes sense, and short enough to be folded.
	maxInput = 256
)

// reserved names could be taken for somebody in charge.
var reserved = []string{"admin", "administrator", "root", "system", "chat", "everyone", "all", "here"}

// canonicalName folds a name (RFC 8265, UsernameCaseMapped): the state compares bytes, so that every
// node, whatever its Unicode tables, sees the same name.
func canonicalName(field, name string) (string, error) {
	if name == "" {
		return "", grpcerr.Invalid(field, "is empty")
	}
	if len(name) > maxInput {
		return "", grpcerr.Invalid(field, "has %d bytes, at most %d are allowed", len(name), state.MaxName)
	}
	folded, err := precis.UsernameCaseMapped.String(name)
	if err != nil || folded == "" {
		return "", grpcerr.Invalid(field, "has characters that are not allowed in names")
	}
	if len(folded) > state.MaxName {
		return "", grpcerr.Invalid(field, "has %d bytes, at most %d are allowed", len(folded), state.MaxName)
	}
	return folded, nil
}

// newName is canonicalName for a name that somebody wants to have.
func newName(field, name string) (string, error) {
	folded, err := canonicalName(field, name)
	if err == nil && slices.Contains(reserved, folded) {
		return "", grpcerr.Invalid(field, "%q is reserved", folded)
	}
	return folded, err
}

// checkPassword looks at the length before anything is computed.
func checkPassword(field, password string) error {
	if len(password) < minPassword || len(password) > maxPassword {
		return grpcerr.Invalid(field, "has %d bytes, %d to %d are allowed", len(password), minPassword, maxPassword)
	}
	if !utf8.ValidString(password) {
		return grpcerr.Invalid(field, "is not UTF-8")
	}
	return nil
}

// checkText looks at the text of a message.
func checkText(text string) error {
	if text == "" || len(text) > state.MaxText {
		return grpcerr.Invalid("text", "has %d bytes, 1 to %d are allowed", len(text), state.MaxText)
	}
	if !utf8.ValidString(text) {
		return grpcerr.Invalid("text", "is not UTF-8")
	}
	for i := range len(text) { // by bytes: it is checked for every message
		b := text[i]
		if b < ' ' && b != '\n' && b != '\t' || b == 0x7f || b == 0xc2 && text[i+1] < 0xa0 {
			r, _ := utf8.DecodeRuneInString(text[i:])
			return grpcerr.Invalid("text", "has the control character %U", r)
		}
	}
	return nil
}

// parseOperationID is empty for an empty id: then a retry is not recognised.
func parseOperationID(id string) ([]byte, error) {
	if id == "" {
		return nil, nil
	}
	u, err := ulid.ParseStrict(strings.ToUpper(id))
	if err != nil {
		return nil, grpcerr.Invalid("operation_id", "is not a ULID")
	}
	return u[:], nil
}

// Room ids are numbers to us, and text without a meaning to others.

func roomID(n uint64) string { return "r" + strconv.FormatUint(n, 10) }

// parseRoomID fails as for a room that does not exist.
func parseRoomID(id string) (uint64, error) {
	digits, ok := strings.CutPrefix(id, "r")
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || digits[0] == '0' {
		return 0, chaterr.ErrNoSuchRoom
	}
	return n, nil
}

// page is what a listing is asked for.
type page struct {
	size  int
	after string // where the page before ended; empty for the first
}

func newPage(size int32, token string) (page, error) {
	p := page{size: int(size)}
	switch {
	case size < 0:
		return page{}, grpcerr.Invalid("page_size", "is negative")
	case size == 0:
		p.size = defaultPage
	case size > maxPage:
		p.size = maxPage
	}
	after, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(after) > maxInput {
		return page{}, grpcerr.Invalid("page_token", "is not one of ours")
	}
	p.after = string(after)
	return p, nil
}

// number is after as a number, 0 for the first page.
func (p page) number() (uint64, error) {
	if p.after == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(p.after, 10, 64)
	if err != nil {
		return 0, grpcerr.Invalid("page_token", "is not one of ours")
	}
	return n, nil
}

func pageToken(after string) string { return base64.RawURLEncoding.EncodeToString([]byte(after)) }

func numberToken(n uint64) string { return pageToken(strconv.FormatUint(n, 10)) }

// pattern is a part of a name, in which * stands for any characters.
type pattern []string

func newPattern(text string) (pattern, error) {
	if len(text) > maxInput {
		return nil, grpcerr.Invalid("pattern", "has %d bytes, at most %d are allowed", len(text), maxInput)
	}
	return strings.Split(strings.ToLower(text), "*"), nil
}

func (p pattern) matches(name string) bool {
	for _, part := range p {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return true
}
