package modbus

// At is an address, for tests outside.
func At(n uint16) *address { return &address{value: n} }
