package state

import "example.com/chat/fsm/fsmpb"

// formCluster gives the cluster its id, once.
func (t *tx) formCluster(c *FormCluster) *Result {
	switch {
	case c.ClusterId == "":
		return refused(fsmpb.Reason_REASON_INVALID)
	case t.b.meta.ClusterId != "" && t.b.meta.ClusterId != c.ClusterId:
		return refused(fsmpb.Reason_REASON_CLUSTER_FORMED)
	}
	t.b.meta.ClusterId = c.ClusterId
	return &Result{}
}
