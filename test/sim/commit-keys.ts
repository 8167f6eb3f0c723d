import { present } from '../../src/base/assert.ts'
import type { Answer, Client, Opened, World } from './commit-world.ts'
import { home } from './commit-world.ts'
import type { Server } from './commit-server.ts'

/** Requests that come with a key, as far as messages go: the opening claims it at home, and a second use is told of the first. */

/** Those that there are. */
export const keys = [0]

export function claimKey(
  world: World,
  gateway: number,
  opened: Opened,
  client: Client,
  tell: (isClaimed: boolean) => void,
): void {
  const { server, life } = opened
  const key = present(client.key, 'it comes with a key')
  const abort = () => {
    client.told = 'aborted'
    tell(false)
  }
  if (server.life !== life) return abort()
  const hear = (answer: Answer) => {
    if (answer.kind === 'ok') return tell(true)
    if (answer.kind !== 'used') return abort()
    tell(false)
    replay(world, gateway, key, answer.by, (isSure) => (client.told = isSure ? { replayed: answer.by } : 'ambiguous'))
  }
  const isRefused = (at: Server) => client.id <= at.keysRefusedThrough
  world.sendTo(
    gateway,
    server,
    (at, heard) => {
      if (isRefused(at)) return heard(refused)
      // The insert may wait meanwhile for whoever removes the key.
      const insert = (then: Server) =>
        world.parts.claimsLookAgain && isRefused(then) ? refused : claim(then, key, client.id)
      world.sendTo(gateway, at, (then, answer) => answer(insert(then)), heard)
    },
    hear,
  )
}

const refused: Answer = { kind: 'refused' }

/** Who finds the key held waits there, and gives up by and by. */
function claim(at: Server, key: number, id: number): Answer {
  const user = at.userOf(key)
  if (user === 'held' || !at.open.has(id)) return { kind: 'lost' }
  if (user !== undefined) return { kind: 'used', by: user }
  at.claims.set(key, id)
  return { kind: 'ok', value: 0 }
}

/** The commit of the first use, read at the home that the gateway knows. It counts behind a barrier there. */
function replay(world: World, gateway: number, key: number, first: number, tell: (isSure: boolean) => void): void {
  const readAt = present(world.known[gateway]?.[home], 'a known home')
  world.sendTo(
    gateway,
    readAt,
    (at, heard) => heard(at.userOf(key) === first ? { kind: 'ok', value: 0 } : { kind: 'lost' }),
    (answer) => {
      if (answer.kind !== 'ok') return tell(false)
      if (!world.parts.replaysBehindBarrier) return tell(true)
      world.barrier(gateway, readAt, tell)
    },
  )
}
