package modbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// SunSpec devices describe themselves: at one of three addresses stands "SunS", after it models,
// each with its number and length, up to one numbered 0xFFFF (SunSpec Information Model
// Specification, "Device Modbus Map"). Models that are not in the table are passed over.

var sunspecBases = []uint16{40000, 50000, 0}

// models is THE table of models: name, and its points in order, type:name[:unit[:scale factor]].
// Types: u and i are 16 bits, U 32 bits, acc a 32-bit accumulator, f a float32, sf a scale factor,
// str8 and str16 strings of so many registers, e an enumeration, b 32 flags.
var models = map[int]struct{ name, points string }{
	1:   {"common", "str16:Mn str16:Md str8:Opt str8:Vr str16:SN u:DA"},
	101: {"inverter", inverter}, 102: {"inverter", inverter}, 103: {"inverter", inverter},
	111: {"inverter", floatInverter}, 112: {"inverter", floatInverter}, 113: {"inverter", floatInverter},
	201: {"meter", meter}, 202: {"meter", meter}, 203: {"meter", meter}, 204: {"meter", meter},
	211: {"meter", floatMeter}, 212: {"meter", floatMeter}, 213: {"meter", floatMeter}, 214: {"meter", floatMeter},
}

const (
	states = " e:St u:StVnd b:Evt1 b:Evt2 b:EvtVnd1 b:EvtVnd2 b:EvtVnd3 b:EvtVnd4"

	inverter = "u:A:A:A_SF u:AphA:A:A_SF u:AphB:A:A_SF u:AphC:A:A_SF sf:A_SF" +
		" u:PPVphAB:V:V_SF u:PPVphBC:V:V_SF u:PPVphCA:V:V_SF u:PhVphA:V:V_SF u:PhVphB:V:V_SF u:PhVphC:V:V_SF sf:V_SF" +
		" i:W:W:W_SF sf:W_SF u:Hz:Hz:Hz_SF sf:Hz_SF i:VA:VA:VA_SF sf:VA_SF i:VAr:var:VAr_SF sf:VAr_SF i:PF:%:PF_SF sf:PF_SF" +
		" acc:WH:Wh:WH_SF sf:WH_SF u:DCA:A:DCA_SF sf:DCA_SF u:DCV:V:DCV_SF sf:DCV_SF i:DCW:W:DCW_SF sf:DCW_SF" +
		" i:TmpCab:°C:Tmp_SF i:TmpSnk:°C:Tmp_SF i:TmpTrns:°C:Tmp_SF i:TmpOt:°C:Tmp_SF sf:Tmp_SF" + states

	floatInverter = "f:A:A f:AphA:A f:AphB:A f:AphC:A f:PPVphAB:V f:PPVphBC:V f:PPVphCA:V f:PhVphA:V f:PhVphB:V f:PhVphC:V" +
		" f:W:W f:Hz:Hz f:VA:VA f:VAr:var f:PF:% f:WH:Wh f:DCA:A f:DCV:V f:DCW:W" +
		" f:TmpCab:°C f:TmpSnk:°C f:TmpTrns:°C f:TmpOt:°C" + states

	meter = "i:A:A:A_SF i:AphA:A:A_SF i:AphB:A:A_SF i:AphC:A:A_SF sf:A_SF" +
		" i:PhV:V:V_SF i:PhVphA:V:V_SF i:PhVphB:V:V_SF i:PhVphC:V:V_SF i:PPV:V:V_SF i:PPVphAB:V:V_SF i:PPVphBC:V:V_SF i:PPVphCA:V:V_SF sf:V_SF" +
		" i:Hz:Hz:Hz_SF sf:Hz_SF i:W:W:W_SF i:WphA:W:W_SF i:WphB:W:W_SF i:WphC:W:W_SF sf:W_SF" +
		" i:VA:VA:VA_SF i:VAphA:VA:VA_SF i:VAphB:VA:VA_SF i:VAphC:VA:VA_SF sf:VA_SF" +
		" i:VAR:var:VAR_SF i:VARphA:var:VAR_SF i:VARphB:var:VAR_SF i:VARphC:var:VAR_SF sf:VAR_SF" +
		" i:PF:%:PF_SF i:PFphA:%:PF_SF i:PFphB:%:PF_SF i:PFphC:%:PF_SF sf:PF_SF" +
		" acc:TotWhExp:Wh:TotWh_SF acc:TotWhExpPhA:Wh:TotWh_SF acc:TotWhExpPhB:Wh:TotWh_SF acc:TotWhExpPhC:Wh:TotWh_SF" +
		" acc:TotWhImp:Wh:TotWh_SF acc:TotWhImpPhA:Wh:TotWh_SF acc:TotWhImpPhB:Wh:TotWh_SF acc:TotWhImpPhC:Wh:TotWh_SF sf:TotWh_SF" +
		" acc:TotVAhExp:VAh:TotVAh_SF acc:TotVAhExpPhA:VAh:TotVAh_SF acc:TotVAhExpPhB:VAh:TotVAh_SF acc:TotVAhExpPhC:VAh:TotVAh_SF" +
		" acc:TotVAhImp:VAh:TotVAh_SF acc:TotVAhImpPhA:VAh:TotVAh_SF acc:TotVAhImpPhB:VAh:TotVAh_SF acc:TotVAhImpPhC:VAh:TotVAh_SF sf:TotVAh_SF" +
		" acc:TotVArhImpQ1:varh:TotVArh_SF acc:TotVArhImpQ1PhA:varh:TotVArh_SF acc:TotVArhImpQ1PhB:varh:TotVArh_SF acc:TotVArhImpQ1PhC:varh:TotVArh_SF" +
		" acc:TotVArhImpQ2:varh:TotVArh_SF acc:TotVArhImpQ2PhA:varh:TotVArh_SF acc:TotVArhImpQ2PhB:varh:TotVArh_SF acc:TotVArhImpQ2PhC:varh:TotVArh_SF" +
		" acc:TotVArhExpQ3:varh:TotVArh_SF acc:TotVArhExpQ3PhA:varh:TotVArh_SF acc:TotVArhExpQ3PhB:varh:TotVArh_SF acc:TotVArhExpQ3PhC:varh:TotVArh_SF" +
		" acc:TotVArhExpQ4:varh:TotVArh_SF acc:TotVArhExpQ4PhA:varh:TotVArh_SF acc:TotVArhExpQ4PhB:varh:TotVArh_SF acc:TotVArhExpQ4PhC:varh:TotVArh_SF sf:TotVArh_SF" +
		" b:Evt"

	floatMeter = "f:A:A f:AphA:A f:AphB:A f:AphC:A" +
		" f:PhV:V f:PhVphA:V f:PhVphB:V f:PhVphC:V f:PPV:V f:PPVphAB:V f:PPVphBC:V f:PPVphCA:V f:Hz:Hz" +
		" f:W:W f:WphA:W f:WphB:W f:WphC:W f:VA:VA f:VAphA:VA f:VAphB:VA f:VAphC:VA" +
		" f:VAR:var f:VARphA:var f:VARphB:var f:VARphC:var f:PF f:PFphA f:PFphB f:PFphC" +
		" f:TotWhExp:Wh f:TotWhExpPhA:Wh f:TotWhExpPhB:Wh f:TotWhExpPhC:Wh f:TotWhImp:Wh f:TotWhImpPhA:Wh f:TotWhImpPhB:Wh f:TotWhImpPhC:Wh" +
		" f:TotVAhExp:VAh f:TotVAhExpPhA:VAh f:TotVAhExpPhB:VAh f:TotVAhExpPhC:VAh f:TotVAhImp:VAh f:TotVAhImpPhA:VAh f:TotVAhImpPhB:VAh f:TotVAhImpPhC:VAh" +
		" f:TotVArhImpQ1:varh f:TotVArhImpQ1PhA:varh f:TotVArhImpQ1PhB:varh f:TotVArhImpQ1PhC:varh" +
		" f:TotVArhImpQ2:varh f:TotVArhImpQ2PhA:varh f:TotVArhImpQ2PhB:varh f:TotVArhImpQ2PhC:varh" +
		" f:TotVArhExpQ3:varh f:TotVArhExpQ3PhA:varh f:TotVArhExpQ3PhB:varh f:TotVArhExpQ3PhC:varh" +
		" f:TotVArhExpQ4:varh f:TotVArhExpQ4PhA:varh f:TotVArhExpQ4PhB:varh f:TotVArhExpQ4PhC:varh" +
		" b:Evt"
)

// inverterStates are the names of St.
var inverterStates = map[uint64]string{
	1: "off", 2: "sleeping", 3: "starting", 4: "mppt", 5: "throttled", 6: "shutting_down", 7: "fault", 8: "standby",
}

// model is one that a device has.
type model struct {
	id        int
	addr      uint16 // of its first point
	n         int    // registers of its points
	registers []*register
	interval  time.Duration
	next      time.Time
}

// commonInterval is how often a device is asked who it is.
const commonInterval = time.Hour

// pointTypes say how the types of the table are read, and by which raw value a device says
// that it does not have a point at all.
var pointTypes = map[string]struct {
	kind   string
	words  int
	absent uint64
}{
	"u": {"uint16", 1, 0xffff}, "i": {"int16", 1, 0x8000}, "e": {"uint16", 1, 0xffff}, "sf": {"int16", 1, 0x8000},
	"acc": {"uint32", 2, 0xffffffff}, "b": {"uint32", 2, 0xffffffff},
	"f": {"float32", 2, 0x7fc00000}, "str8": {"string", 8, 0}, "str16": {"string", 16, 0},
}

// registersOf makes registers of the points of a model that the device has so many registers of,
// beginning at addr.
func registersOf(points, prefix string, addr uint16, n int) []*register {
	changes := 0.0
	var registers []*register
	factors := map[string]int{}
	at := 0
	for point := range strings.FieldsSeq(points) {
		f := append(strings.Split(point, ":"), "", "")
		t := pointTypes[f[0]]
		if at+t.words > n {
			break // an older edition of the model
		}
		r := &register{
			name: prefix + "." + f[1], unit: f[2], table: holding, addr: addr + uint16(at),
			kind: t.kind, form: forms[t.kind], invalid: []uint64{t.absent}, deadband: &changes,
		}
		r.words = t.words
		at += t.words
		switch f[0] {
		case "sf":
			factors[f[1]] = int(r.addr)
			continue
		case "e":
			r.enum = inverterStates
		}
		r.factor = f[3]
		registers = append(registers, r)
	}
	return slices.DeleteFunc(registers, func(r *register) bool {
		r.scaleAt = factors[r.factor]
		return r.factor != "" && r.scaleAt == 0 // its factor is not there, so nobody knows what it means
	})
}

// discover finds the models of the slave.
func (r *reader) discover(ctx context.Context) ([]*model, error) {
	quiet := *r
	quiet.up = true // whoever does not speak SunSpec is not up because it says so
	found, err := findModels(func(addr uint16, n int) ([]uint16, error) { return quiet.read(ctx, holding, addr, n) })
	if errors.Is(err, errNoSunSpec) {
		err = fmt.Errorf("unit %d on %s %w", r.unit, r.bus.what, err)
	}
	if err != nil {
		return nil, err
	}
	names := map[string]int{}
	var known []*model
	for _, m := range found {
		entry, ok := models[m.id]
		if !ok {
			continue
		}
		prefix := entry.name
		if names[entry.name]++; names[entry.name] > 1 {
			prefix += strconv.Itoa(names[entry.name])
		}
		m.registers = registersOf(entry.points, prefix, m.addr, m.n)
		for _, reg := range m.registers {
			reg.maxInterval = r.defaults.maxInterval
		}
		m.interval = r.defaults.interval
		if m.id == 1 {
			m.interval = max(commonInterval, m.interval)
		}
		known = append(known, m)
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("unit %d on %s speaks SunSpec, but has no model that Weir knows: %s", r.unit, r.bus.what, ids(found))
	}
	return known, nil
}

// findModels walks the list of models. Its error is that of read, or that there is none.
func findModels(read func(addr uint16, n int) ([]uint16, error)) ([]*model, error) {
	var refused Exception
	for _, base := range sunspecBases {
		mark, err := read(base, 2)
		if err != nil && !errors.As(err, &refused) {
			return nil, err
		}
		if err != nil || mark[0] != 'S'<<8|'u' || mark[1] != 'n'<<8|'S' {
			continue
		}
		var found []*model
		for at := int(base) + 2; at < 1<<16-1 && len(found) < maxModels; {
			head, err := read(uint16(at), 2)
			if errors.As(err, &refused) { // a list without an end
				break
			}
			if err != nil {
				return nil, err
			}
			if head[0] == 0xffff || head[0] == 0 {
				break
			}
			m := &model{id: int(head[0]), addr: uint16(at + 2), n: int(head[1])}
			if at += 2 + m.n; at > 1<<16 {
				break
			}
			found = append(found, m)
		}
		return found, nil
	}
	return nil, errNoSunSpec
}

var errNoSunSpec = errors.New("does not speak SunSpec: there is no SunS at 40000, 50000 or 0")

// maxModels bounds the list of models.
const maxModels = 64

func ids(found []*model) string {
	var all []string
	for _, m := range found {
		all = append(all, strconv.Itoa(m.id))
	}
	return strings.Join(all, ", ")
}

// pollModel reads m and emits what changed.
func (r *reader) pollModel(ctx context.Context, m *model) error {
	read, err := r.read(ctx, holding, m.addr, m.n)
	var refused Exception
	if errors.As(err, &refused) && !refused.unreachable() {
		r.garbage(Exceptional, fmt.Appendf(nil, "model %d, %s: %v", m.id, places(holding, m.addr, m.n), refused))
		return nil
	}
	if err != nil {
		return err
	}
	at := func(addr uint16) int { return int(addr - m.addr) }
	var readings []codec.Reading
	for _, reg := range m.registers {
		shift := 0
		if reg.scaleAt > 0 {
			shift = int(int16(read[at(uint16(reg.scaleAt))]))
			if shift < -10 || shift > 10 { // not implemented is -32768
				continue
			}
		}
		from := at(reg.addr)
		v := reg.decode(read[from:from+reg.words], shift)
		if v.quality == gateway.Bad || v.text == "" { // the device has no such point
			continue
		}
		readings = r.report(readings, reg, v, time.Now())
	}
	r.frame(readings)
	return nil
}
