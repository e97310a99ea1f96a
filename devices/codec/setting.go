package codec

// Setting is something that commands can set on a device, and how it is shown to people.
type Setting struct {
	Name string // of the measurement, or of a command that is none
	Form string // one of the forms below
	// Of a Numeric: what may be set, nil where no bound is known, and its smallest step; 0: any.
	Min, Max *float64
	Step     float64
	// Of a Choice what may be set; of a Switch the words for on and off.
	Options []string
}

// The forms of settings.
const (
	Numeric = "number"
	Switch  = "switch"
	Choice  = "select"
	Text    = "text"
	Button  = "button" // is pressed, and has no value
)
