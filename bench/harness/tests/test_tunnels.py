import dataclasses
import unittest

import tunnels
from tunnels import DEFINITIONS, DIRECT, OURS, Role, expand


class Definitions(unittest.TestCase):
    def test_that_are_built_in_pass_their_own_check(self):
        for definition in DEFINITIONS:
            definition.check()
        self.assertEqual(len({definition.name for definition in DEFINITIONS}), len(DEFINITIONS))

    def test_expand_without_a_brace_left_over(self):
        values = {**{name: "x" for name in tunnels.PLACEHOLDERS}}
        for definition in DEFINITIONS:
            values.update({f"program:{program}": f"/bin/{program}" for program in definition.programs})
            for text in [word for role in definition.roles for word in role.argv] + [text for _, text in definition.files]:
                self.assertNotRegex(expand(text, values), r"[{}]")

    def test_name_a_program_of_the_device(self):
        for definition in DEFINITIONS:
            if definition.kind != DIRECT:
                self.assertIn(definition.device_program, definition.programs)

    def test_of_ours_dial_the_forwarder_and_not_the_server(self):
        for definition in DEFINITIONS:
            if definition.kind == OURS:
                self.assertIn("{link_host}:{link}", dict(definition.files)["agent.toml"])

    def test_with_a_placeholder_nobody_fills_are_refused(self):
        spoiled = dataclasses.replace(DEFINITIONS[0], files=(("agent.toml", "port = {prot}"),))
        with self.assertRaisesRegex(ValueError, "umbilical: unknown placeholder {prot}"):
            spoiled.check()

    def test_without_a_device_are_refused(self):
        spoiled = dataclasses.replace(DEFINITIONS[0], roles=(Role("cloud", ()),))
        with self.assertRaisesRegex(ValueError, "no role is called device"):
            spoiled.check()


class Placeholders(unittest.TestCase):
    def test_are_filled_and_doubled_braces_are_braces(self):
        self.assertEqual(expand("{{a}} {server}:{program:x-y}", {"server": 7, "program:x-y": "/x"}), "{a} 7:/x")

    def test_without_a_value_are_an_error(self):
        with self.assertRaises(KeyError):
            expand("{nothing}", {})


if __name__ == "__main__":
    unittest.main()
