package rpc

import (
	"fmt"
	"testing"
)

// TestVouched_Limit: users that a host vouches for do not fill memory.
func TestVouched_Limit(t *testing.T) {
	v := vouched{users: map[string]*vouchedUser{}}
	for i := range maxVouched + 100 {
		v.user(fmt.Sprint(i))
	}
	if len(v.users) != maxVouched {
		t.Errorf("%d users are kept", len(v.users))
	}
	if newest := fmt.Sprint(maxVouched + 99); v.user(newest) != v.user(newest) {
		t.Error("the newest is another one each time")
	}
}
