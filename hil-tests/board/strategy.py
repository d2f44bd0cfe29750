"""How a board comes to a shell, and what can be done to it from outside.

States: `off`, and `shell`: powered, started, somebody logged in at the serial console. An emulated board can be started with a wrong date or
without a network, its cable pulled and its reset button pressed; another one may have a power switch, and that is all.
"""

import attr
from labgrid import target_factory
from labgrid.driver import QEMUDriver
from labgrid.strategy import Strategy, StrategyError


@attr.s(frozen=True)
class Boot:
    """What is special about a start."""

    # What the board's clock says, where QEMU's own is not wanted: 1970-01-01T00:00:00
    date = attr.ib(default=None)
    # What is not there until the test brings it: "network", "names" or "agent"
    late = attr.ib(default=None)


@target_factory.reg_driver
@attr.s(eq=False)
class BoardStrategy(Strategy):
    bindings = {"power": "PowerProtocol", "console": "ConsoleProtocol", "shell": "ShellDriver"}

    status = attr.ib(default="unknown")
    # How it was started; None if it is in a state that the next test should not find.
    boot = attr.ib(default=None)

    def __attrs_post_init__(self):
        super().__attrs_post_init__()
        if isinstance(self.power, QEMUDriver):
            self._arguments = self.power.extra_args, self.power.boot_args

    def transition(self, status):
        """To `off` or `shell`, from any state."""
        if status == self.status:
            return
        if status == "off":
            self.target.activate(self.power)
            self.power.off()
            # An emulator takes its arguments when it is activated.
            for driver in (self.shell, self.console, self.power):
                self.target.deactivate(driver)
        elif status == "shell":
            self.transition("off")
            self.target.activate(self.power)
            self.target.activate(self.console)
            self.power.on()
            self.target.activate(self.shell)
        else:
            raise StrategyError(f"there is no state {status}")
        self.status = status

    def start(self, boot=Boot()):
        """A start from cold."""
        self.transition("off")
        if isinstance(self.power, QEMUDriver):
            extra, kernel = self._arguments
            self.power.extra_args = extra + (f" -rtc base={boot.date}" if boot.date else "")
            self.power.boot_args = kernel + (f" late={boot.late}" if boot.late else "")
        elif boot != Boot():
            raise StrategyError(f"only an emulated board starts with {boot}")
        self.transition("shell")
        self.boot = boot

    def reset(self):
        """The reset button. The system is not asked. Returns when there is a shell again."""
        self.power.monitor_command("system_reset")
        self.target.deactivate(self.shell)
        self.target.activate(self.shell)

    def set_cable(self, is_plugged):
        """Plugs the network in, or pulls it out; the board sees which."""
        self.power.monitor_command("set_link", {"name": "nic", "up": is_plugged})
