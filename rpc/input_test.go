package rpc

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// TestNewName: what a name is folded to; empty for a name that nobody can have.
func TestNewName(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"plain":              {"alice", "alice"},
		"capitals":           {"ALiCE", "alice"},
		"full-width":         {"ａｌｉｃｅ", "alice"},
		"composed":           {"e\u0301", "é"},
		"capital sharp s":    {"GROẞ", "groß"},
		"another script":     {"алиса", "алиса"},
		"right to left":      {"אבג", "אבג"},
		"dots and dashes":    {"a.b-c_d", "a.b-c_d"},
		"64 bytes":           {strings.Repeat("a", 64), strings.Repeat("a", 64)},
		"64 when folded":     {strings.Repeat("ａ", 64), strings.Repeat("a", 64)},
		"empty":              {"", ""},
		"65 bytes":           {strings.Repeat("a", 65), ""},
		"65 when folded":     {strings.Repeat("ａ", 65), ""},
		"257 bytes":          {strings.Repeat("a", 257), ""},
		"a megabyte":         {strings.Repeat("a", 1<<20), ""},
		"a space":            {"alice smith", ""},
		"spaces around":      {" alice ", ""},
		"a no-break space":   {"alice\u00a0smith", ""},
		"a control":          {"alice\x00", ""},
		"a line feed":        {"alice\n", ""},
		"an escape":          {"\x1b[31malice", ""},
		"a zero-width space": {"al\u200bice", ""},
		"a zero-width join":  {"al\u200dice", ""},
		"a soft hyphen":      {"al\u00adice", ""},
		"a byte order mark":  {"\ufeffalice", ""},
		"a bidi override":    {"\u202eecila", ""},
		"a bidi isolate":     {"\u2066alice", ""},
		"mixed directions":   {"alice\u05d0", ""},
		"an emoji":           {"alice😀", ""},
		"private use":        {"\ue000", ""},
		"not UTF-8":          {"al\xffice", ""},
		"reserved":           {"admin", ""},
		"reserved, capitals": {"ADMIN", ""},
		"reserved, wide":     {"ｒｏｏｔ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newName("name", tt.in)
			if got != tt.want && err == nil || (err == nil) == (tt.want == "") || err != nil && !errors.Is(err, chaterr.ErrInvalid) {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
			if err != nil && len(err.Error()) > 200 {
				t.Errorf("the error repeats the input: it has %d bytes", len(err.Error()))
			}
		})
	}
	for _, name := range reserved {
		if folded, err := canonicalName("name", name); err != nil || folded != name {
			t.Errorf("%q is reserved in another form than its canonical one, %q, %v", name, folded, err)
		}
	}
}

// FuzzCanonicalName: whatever is folded is a name that the state takes, and folding it again changes
// nothing: else somebody could not be found by the name that everybody is shown.
func FuzzCanonicalName(f *testing.F) {
	for _, s := range []string{"alice", "ALICE", "ａｌｉｃｅ", "e\u0301", "ẞ", "İ", "ß", "ﬀ", "\u1e9b\u0323", "ς", "ﷺ", "Ω", "K", "ᾳ", "ǅ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		name, err := canonicalName("name", in)
		if err != nil {
			if !errors.Is(err, chaterr.ErrInvalid) {
				t.Fatalf("%q: %v", in, err)
			}
			return
		}
		if name == "" || len(name) > state.MaxName || !utf8.ValidString(name) {
			t.Fatalf("%q: folded to %q", in, name)
		}
		if again, err := canonicalName("name", name); again != name || err != nil {
			t.Fatalf("%q: folded to %q, and that to %q, %v", in, name, again, err)
		}
	})
}

func TestCheckPassword(t *testing.T) {
	for name, tt := range map[string]struct {
		password string
		ok       bool
	}{
		"8 bytes":         {"12345678", true},
		"4 letters":       {"ääää", true},
		"1,024 bytes":     {strings.Repeat("x", 1024), true},
		"spaces and more": {" a\tb\x00c\u200bd ", true},
		"empty":           {"", false},
		"7 bytes":         {"1234567", false},
		"1,025 bytes":     {strings.Repeat("x", 1025), false},
		"not UTF-8":       {"1234567\xff", false},
	} {
		if err := checkPassword("password", tt.password); (err == nil) != tt.ok || err != nil && (!errors.Is(err, chaterr.ErrInvalid) || tt.password != "" && strings.Contains(err.Error(), tt.password)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCheckText(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		ok   bool
	}{
		"a letter":          {"x", true},
		"16,384 bytes":      {strings.Repeat("x", 16384), true},
		"lines and tabs":    {"a\n\tb", true},
		"an emoji family":   {"👩\u200d👩\u200d👧", true},
		"Hebrew":            {"\u202bשלום\u202c", true},
		"a no-break space":  {"a\u00a0\u00c2", true},
		"empty":             {"", false},
		"16,385 bytes":      {strings.Repeat("x", 16385), false},
		"a null":            {"a\x00", false},
		"a carriage return": {"a\r\n", false},
		"an escape":         {"\x1b]0;title\x07", false},
		"delete":            {"a\x7f", false},
		"a C1 control":      {"a\u009b31m", false},
		"not UTF-8":         {"a\xff", false},
		"a surrogate":       {"\xed\xa0\x80", false},
	} {
		if err := checkText(tt.text); (err == nil) != tt.ok || err != nil && !errors.Is(err, chaterr.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestParseOperationID(t *testing.T) {
	for name, tt := range map[string]struct {
		id   string
		want int // bytes; -1 for a refusal
	}{
		"none":          {"", 0},
		"a ULID":        {"01ARZ3NDEKTSV4RRFFQ69G5FAV", 16},
		"small letters": {"01arz3ndektsv4rrffq69g5fav", 16},
		"the largest":   {"7ZZZZZZZZZZZZZZZZZZZZZZZZZ", 16},
		"too large":     {"80000000000000000000000000", -1},
		"25 letters":    {"01ARZ3NDEKTSV4RRFFQ69G5FA", -1},
		"27 letters":    {"01ARZ3NDEKTSV4RRFFQ69G5FAVV", -1},
		"a U":           {"01ARZ3NDEKTSV4RRFFQ69G5FAU", -1},
		"a UUID":        {"c0ffee00-0000-4000-8000-000000000000", -1},
		"a space":       {" 1ARZ3NDEKTSV4RRFFQ69G5FAV", -1},
	} {
		got, err := parseOperationID(tt.id)
		if err == nil && len(got) != tt.want || err != nil && (tt.want >= 0 || !errors.Is(err, chaterr.ErrInvalid)) {
			t.Errorf("%s: got %x, %v, want %d bytes", name, got, err, tt.want)
		}
	}
}

// TestParseRoomID: a room has one id, and what is no id says no more than that there is no such room.
func TestParseRoomID(t *testing.T) {
	for id, want := range map[string]uint64{
		"r1": 1, "r18446744073709551615": 1<<64 - 1,
		"": 0, "r": 0, "r0": 0, "1": 0, "R1": 0, "r01": 0, "r+1": 0, "r-1": 0, "r1 ": 0, "r1.0": 0, "r0x1": 0, "r1_0": 0, "r18446744073709551616": 0, "r١": 0,
	} {
		got, err := parseRoomID(id)
		if got != want || (err == nil) != (want != 0) || err != nil && !errors.Is(err, chaterr.ErrNoSuchRoom) {
			t.Errorf("%q: got %d, %v, want %d", id, got, err, want)
		}
	}
}

func TestNewPage(t *testing.T) {
	for name, tt := range map[string]struct {
		size  int32
		token string
		want  int // the page's size; 0 for a refusal
	}{
		"the default":    {0, "", 50},
		"one":            {1, "", 1},
		"the most":       {500, "", 500},
		"more":           {501, "", 500},
		"far more":       {1<<31 - 1, "", 500},
		"less than none": {-1, "", 0},
		"a token":        {0, pageToken("alice"), 50},
		"no base64":      {0, "%%%", 0},
		"padded":         {0, base64.URLEncoding.EncodeToString([]byte("a")), 0},
		"a long token":   {0, pageToken(strings.Repeat("x", maxInput+1)), 0},
	} {
		p, err := newPage(tt.size, tt.token)
		if p.size != tt.want || (err == nil) != (tt.want != 0) || err != nil && !errors.Is(err, chaterr.ErrInvalid) {
			t.Errorf("%s: got %+v, %v, want size %d", name, p, err, tt.want)
		}
	}
}

// TestPage_Tokens: what a page ends with is where the next one goes on, whatever it is.
func TestPage_Tokens(t *testing.T) {
	for _, after := range []string{"alice", "é", "a\x00b", strings.Repeat("x", state.MaxName)} {
		if p, err := newPage(1, pageToken(after)); p.after != after || err != nil {
			t.Errorf("%q came back as %q, %v", after, p.after, err)
		}
	}
	for _, n := range []uint64{1, 500, 1<<64 - 1} {
		p, err := newPage(1, numberToken(n))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.number(); got != n || err != nil {
			t.Errorf("%d came back as %d, %v", n, got, err)
		}
	}
	p, err := newPage(1, pageToken("alice")) // of another listing
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.number(); !errors.Is(err, chaterr.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestPattern(t *testing.T) {
	for name, tt := range map[string]struct {
		pattern, in string
		want        bool
	}{
		"everything":        {"", "alice", true},
		"a part":            {"lic", "alice", true},
		"the whole":         {"alice", "alice", true},
		"longer":            {"alices", "alice", false},
		"capitals":          {"LIC", "alice", true},
		"a star":            {"a*e", "alice", true},
		"parts in order":    {"l*c", "alice", true},
		"in another order":  {"c*l", "alice", false},
		"parts overlap":     {"ali*lice", "alice", false},
		"stars":             {"**", "alice", true},
		"no expression":     {"a.ice", "alice", false},
		"another character": {"?", "alice", false},
	} {
		p, err := newPattern(tt.pattern)
		if err != nil || p.matches(tt.in) != tt.want {
			t.Errorf("%s: %q matches %q: %v, %v, want %v", name, tt.pattern, tt.in, !tt.want, err, tt.want)
		}
	}
	if _, err := newPattern(strings.Repeat("*", maxInput+1)); !errors.Is(err, chaterr.ErrInvalid) {
		t.Errorf("a long pattern: %v", err)
	}
}
