import type { Command } from 'commander'
import type { DriftView } from '../../fleet/operations-api.ts'
import { optionsOf, withFleet } from '../attach.ts'
import { printLine } from '../output.ts'
import { table } from '../table.ts'

/** `drift`: who reads elsewhere without meaning to. */
export function addDriftCommands(program: Command): void {
  program
    .command('drift')
    .description('reads that left their region')
    .command('list')
    .description('routes that are declared local and were answered in another region')
    .action((_options: unknown, command: Command) =>
      withFleet(optionsOf(command), (fleet) => fleet.drifts(), showDrifts),
    )
}

function showDrifts(drifts: readonly DriftView[]): void {
  printLine(
    table(
      ['route', 'from', 'to', 'shard', 'reads', 'first', 'last'],
      drifts.map(({ route, from, to, shard, reads, firstAt, lastAt }) => [
        route,
        from,
        to,
        shard,
        String(reads),
        firstAt,
        lastAt,
      ]),
    ),
  )
}
