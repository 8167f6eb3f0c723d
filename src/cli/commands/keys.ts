import type { Command } from 'commander'
import { InvalidArgumentError } from 'commander'
import type { TokenKeyView } from '../../fleet/operations-api.ts'
import { optionsOf, withFleet } from '../attach.ts'
import { printLine, progressLine } from '../output.ts'
import { table } from '../table.ts'

/** `keys`: what session tokens are signed with. */
export function addKeyCommands(program: Command): void {
  const keys = program.command('keys').description('the keys of session tokens')
  keys
    .command('list')
    .description('every key with what it does, without its secret')
    .action((_options: unknown, command: Command) => withFleet(optionsOf(command), (fleet) => fleet.keys(), showKeys))
  keys
    .command('rotate')
    .description('sign session tokens with a new key; sessions go on')
    .action((_options: unknown, command: Command) =>
      withFleet(optionsOf(command), (fleet) => fleet.rotateKeys(progressLine), showKeys),
    )
  keys
    .command('revoke')
    .description('refuse what a key signed that somebody else may have; those sessions begin anew')
    .argument('<key>', 'its number, as in the list', keyNumber)
    .action((key: number, _options: unknown, command: Command) =>
      withFleet(optionsOf(command), (fleet) => fleet.revokeKey(key, progressLine), showKeys),
    )
}

function keyNumber(text: string): number {
  if (/^\d{1,3}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('Keys have numbers from 0 to 255; holdfast keys list shows them.')
}

function showKeys(keys: readonly TokenKeyView[]): void {
  printLine(
    table(
      ['key', 'state', 'gone at'],
      keys.map(({ id, state, goneAt }) => [String(id), state, goneAt ?? '']),
    ),
  )
}
