import type { Command } from 'commander'
import { writeExampleConfig } from '../../fleet/config-template.ts'
import { ControlClient } from '../../fleet/control.ts'
import { requireSupervisor } from '../../fleet/registry.ts'
import type { FleetStatus } from '../../fleet/operations-api.ts'
import type { CommonOptions } from '../attach.ts'
import { dataDirOf, report, withFleet } from '../attach.ts'
import { printLine, progressLine } from '../output.ts'
import { table } from '../table.ts'
import { up } from '../up.ts'

/** `init`, `up`, `down`, `status`. */
export function addLifecycleCommands(program: Command): void {
  program
    .command('init')
    .description('write a commented holdfast.yaml')
    .option('--json', 'print one JSON document')
    .argument('[file]', 'where to write it', 'holdfast.yaml')
    .action((file: string, options: { json?: boolean }) =>
      report(
        options,
        () => writeExample(file),
        ({ written }) => printLine(`wrote ${written}; start it with: holdfast up`),
      ),
    )
  program
    .command('up')
    .description('start the fleet, its gateways and their HTTP API; Ctrl-C stops it')
    .option('--wan [ms]', 'put the round trips of `links` between regions, or this many milliseconds between all')
    .action((_options: unknown, command: Command) =>
      up(command.optsWithGlobals<CommonOptions & { wan?: boolean | string }>()),
    )
  program
    .command('down')
    .description('stop the fleet that runs on the data directory')
    .action((_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions>()
      return report(
        options,
        () => down(options),
        () => printLine('stopped'),
      )
    })
  program
    .command('status')
    .description('shards and nodes as this machine reaches them')
    .action((_options: unknown, command: Command) =>
      withFleet(command.optsWithGlobals<CommonOptions>(), (fleet) => fleet.status(), showStatus),
    )
}

async function writeExample(file: string): Promise<{ written: string }> {
  await writeExampleConfig(file)
  return { written: file }
}

async function down(options: CommonOptions): Promise<{ stopped: true }> {
  const registry = await requireSupervisor(await dataDirOf(options))
  const client = await ControlClient.connect(registry.controlSocket)
  const gone = client.closed()
  await client.call('stop', {}, progressLine)
  await gone
  return { stopped: true }
}

function showStatus(status: FleetStatus): void {
  printLine(`${status.fleet}: ${status.ready ? 'ready' : 'not ready'}`)
  printLine(
    table(
      ['shard', 'state', 'epoch', 'in doubt', 'node', 'role', 'region', 'reachable', 'position'],
      status.shards.flatMap((shard) =>
        shard.nodes.map((node) => [
          shard.shard,
          shard.state,
          String(shard.epoch),
          String(shard.inDoubt),
          node.node,
          node.role,
          node.region,
          node.reachable ? 'yes' : 'no',
          node.position ?? '',
        ]),
      ),
    ),
  )
}
