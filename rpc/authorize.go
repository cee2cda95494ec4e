package rpc

// access says who may call a method. Who may do what inside a room is checked where the command is
// applied.
type access uint8

const (
	session access = iota + 1 // whoever has a session
	anybody                   // no session is looked for
	status                    // anybody, at any time; who has a session is told more
)

// methods is the whole table: a method that is not in it is refused.
var methods = map[string]access{
	"/chat.v1.AccountService/Register":       anybody,
	"/chat.v1.AccountService/Login":          anybody,
	"/chat.v1.AccountService/Logout":         session,
	"/chat.v1.AccountService/ChangePassword": session,
	"/chat.v1.AccountService/DeleteAccount":  session,
	"/chat.v1.AccountService/ListAccounts":   session,
	"/chat.v1.RoomService/OpenDirectRoom":    session,
	"/chat.v1.RoomService/CreateRoom":        session,
	"/chat.v1.RoomService/JoinRoom":          session,
	"/chat.v1.RoomService/LeaveRoom":         session,
	"/chat.v1.RoomService/ListRooms":         session,
	"/chat.v1.RoomService/SearchRooms":       session,
	"/chat.v1.RoomService/ListMembers":       session,
	"/chat.v1.MessageService/Send":           session,
	"/chat.v1.MessageService/ListMessages":   session,
	"/chat.v1.MessageService/HideMessages":   session,
	"/chat.v1.MessageService/MarkRead":       session,
	"/chat.v1.EventService/Subscribe":        session,
	"/chat.v1.EventService/Connect":          session,
	"/chat.v1.ClusterService/GetStatus":      status,
}
