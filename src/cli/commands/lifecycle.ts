import type { Command } from 'commander'
import { writeExampleConfig } from '../../fleet/config-template.ts'
import { statusDocument } from '../../fleet/documents.ts'
import type { StatusDocument } from '../../fleet/documents.ts'
import type { GatewayAddress } from '../../fleet/registry.ts'
import { requireSupervisor } from '../../fleet/registry.ts'
import type { CommonOptions } from '../attach.ts'
import { dataDirOf, optionsOf, report, withFleet } from '../attach.ts'
import type { ClosedShard } from '../closed-shards.ts'
import { closedShards, describeClosed } from '../closed-shards.ts'
import { down } from '../down.ts'
import { printLine } from '../output.ts'
import { table } from '../table.ts'
import { up } from '../up.ts'

/** `init`, `up`, `down`, `status`. */
export function addLifecycleCommands(program: Command): void {
  program
    .command('init')
    .description('write a commented configuration that can be started, with a table or two')
    .argument('[file]', 'where to write it', 'holdfast.yaml')
    .action((file: string, _options: unknown, command: Command) =>
      report(
        optionsOf(command),
        async () => ({ written: await writeExampleConfig(file) }),
        ({ written }) => printLine(`wrote ${written.join(' and ')}; start it with: holdfast up --config ${file}`),
      ),
    )
  program
    .command('up')
    .description('start the fleet, its gateways and their HTTP API; Ctrl-C stops it')
    .option('--wan [ms]', 'put the round trips of `links` between regions, or this many milliseconds between all')
    .action((_options: unknown, command: Command) => up(optionsOf<{ wan?: boolean | string }>(command)))
  program
    .command('down')
    .description('stop the fleet that runs on the data directory')
    .action((_options: unknown, command: Command) => {
      const options = optionsOf(command)
      return report(
        options,
        async () => down(await dataDirOf(options)),
        () => printLine('stopped'),
      )
    })
  program
    .command('status')
    .description('shards and nodes as this machine reaches them')
    .action((_options: unknown, command: Command) => {
      const options = optionsOf(command)
      return withFleet(
        options,
        async (fleet) => {
          const status = statusDocument(await fleet.status())
          const closed = await closedShards(await dataDirOf(options), status.shards)
          return { ...status, gateways: await gatewaysOf(options), closed }
        },
        showStatus,
      )
    })
}

async function gatewaysOf(options: CommonOptions): Promise<readonly GatewayAddress[]> {
  return (await requireSupervisor(await dataDirOf(options))).gateways
}

interface FleetStatusDocument extends StatusDocument {
  readonly gateways: readonly GatewayAddress[]
  readonly closed: readonly ClosedShard[]
}

function showStatus(status: FleetStatusDocument): void {
  printLine(`${status.fleet}: ${status.ready ? 'ready' : 'not ready'}`)
  for (const { region, url } of status.gateways) printLine(`gateway of ${region}: ${url}`)
  for (const shard of status.closed) printLine(describeClosed(shard))
  printLine(
    table(
      ['shard', 'state', 'epoch', 'in doubt', 'acknowledging', 'node', 'role', 'region', 'reachable', 'position'],
      status.shards.flatMap((shard) =>
        shard.nodes.map((node) => [
          shard.shard,
          shard.state,
          String(shard.epoch),
          String(shard.inDoubt),
          String(shard.acknowledging ?? ''),
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
