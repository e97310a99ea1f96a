"""A Modbus slave made of pymodbus: slave.py tcp PORT, or slave.py rtu TTY. Unit 3."""
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartSerialServer, StartTcpServer
from pymodbus.transaction import ModbusRtuFramer

# Holding registers: 0 counts up, from 100 on values that the test knows.
holding = [n for n in range(100)] + [0x41AC, 0x0000, 0xFFFF, 0xFFFE, 0x1234, 0x5678] + [0] * 100
unit = ModbusSlaveContext(
    di=ModbusSequentialDataBlock(0, [n % 3 == 0 for n in range(2000)]),
    co=ModbusSequentialDataBlock(0, [False] * 100),
    hr=ModbusSequentialDataBlock(0, holding),
    ir=ModbusSequentialDataBlock(0, [7 * n for n in range(300)]),
    zero_mode=True,
)
context = ModbusServerContext(slaves={3: unit}, single=False)
print("ready", flush=True)
if sys.argv[1] == "tcp":
    StartTcpServer(context=context, address=("127.0.0.1", int(sys.argv[2])))
else:
    StartSerialServer(context=context, framer=ModbusRtuFramer, port=sys.argv[2], baudrate=19200, timeout=0.05)
