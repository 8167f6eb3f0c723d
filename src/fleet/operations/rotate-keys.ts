import { present } from '../../base/assert.ts'
import { formatWallMs } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Progress } from '../../base/progress.ts'
import type { Retirement, TokenKeys } from '../../session/key-rotation.ts'
import { dropKeys, keyStates, promoteKey, publishKey, revokeKey, ringLeaseMs } from '../../session/key-rotation.ts'
import { newSecret, readKeys, retirementOf, writeKeys } from '../keys.ts'
import type { TokenKeyView } from '../operations-api.ts'
import type { Supervisor } from '../supervisor.ts'

/**
 * Has session tokens signed with a new key, in two phases, each of them one durable replacement of the file (S13 to S16).
 * Whatever ends it in between, the fleet goes on with the old key, and the next rotation with the key that was published.
 */

/** Beyond the lease: a timer may be early, and a gateway's lease ends after it. */
const waitMs = ringLeaseMs + 1_000

/**
 * Throws `check_failed` while every id is taken, and where the new key was revoked meanwhile. After any other failure it may be
 * run again.
 */
export async function rotateKeys(supervisor: Supervisor, progress: Progress): Promise<readonly TokenKeyView[]> {
  const { clock, closing, config } = supervisor
  const retirement = retirementOf(config)
  const published = await change(supervisor, (ring) => publish(dropKeys(ring, clock.wallMs(), retirement)))
  const id = present(published.next, 'a key is published')
  const secret = present(published.keys[id], 'a published key is on the ring')
  progress({ step: 'published', detail: `for ${waitMs} ms every gateway gets to know the key` })
  // By a clock that nobody sets: an operation that runs again waits again.
  await clock.sleep(waitMs, closing)
  const ring = await change(supervisor, (found) => promoteKey(found, id, secret, clock.wallMs()))
  if (ring.keys[id] !== secret) {
    throw new HoldfastError('check_failed', `key ${id} was revoked before it signed`, { hint: 'rotate again' })
  }
  progress({ step: 'signing', detail: `with key ${id}` })
  return viewsOf(ring, retirement)
}

/**
 * Takes a key from the ring that somebody else may have: what it signed is refused from then on, and those sessions go on without
 * their tokens. A key that signs has a successor first. When this returns no gateway takes it any more.
 *
 * Throws `argument_invalid` where no such key is on the ring, and what `rotateKeys` throws. After any other failure it may be run
 * again.
 */
export async function revokeTokenKey(
  supervisor: Supervisor,
  id: number,
  progress: Progress,
): Promise<readonly TokenKeyView[]> {
  const { clock, closing, config, home } = supervisor
  if ((await readKeys(home.keysDir)).tokenKeys.current === id) await rotateKeys(supervisor, progress)
  const ring = await change(supervisor, (found) => revoke(found, id))
  progress({ step: 'revoked', detail: `for ${waitMs} ms some gateway may still take what key ${id} signed` })
  await clock.sleep(waitMs, closing)
  return viewsOf(ring, retirementOf(config))
}

/** The keys without their secrets. */
export async function listKeys({ home, config }: Supervisor): Promise<readonly TokenKeyView[]> {
  const { tokenKeys } = await readKeys(home.keysDir)
  return viewsOf(tokenKeys, retirementOf(config))
}

function publish(ring: TokenKeys): TokenKeys {
  const published = publishKey(ring, newSecret())
  if (published !== undefined) return published
  throw new HoldfastError('check_failed', 'no key id is left: tokens of every one of them may be alive', {
    hint: 'rotate again once the oldest key is gone; holdfast keys list says when',
  })
}

function revoke(ring: TokenKeys, id: number): TokenKeys {
  const without = id === ring.current ? ring : revokeKey(ring, id)
  if (without === undefined) {
    throw new HoldfastError('argument_invalid', `no key ${id} is on the ring: what it signed is refused`, {
      hint: 'holdfast keys list shows the keys that are',
    })
  }
  if (without !== ring) return without
  // Of two at once, the other took the successor away as well.
  throw new HoldfastError('check_failed', `key ${id} signs`, { hint: 'revoke it again' })
}

/** Only the supervisor writes the file, one step at a time. */
function change(supervisor: Supervisor, step: (ring: TokenKeys) => TokenKeys): Promise<TokenKeys> {
  const { keysDir } = supervisor.home
  return supervisor.exclusively(async () => {
    const keys = await readKeys(keysDir)
    const tokenKeys = step(keys.tokenKeys)
    if (tokenKeys !== keys.tokenKeys) await writeKeys(keysDir, { ...keys, tokenKeys })
    return tokenKeys
  })
}

function viewsOf(ring: TokenKeys, retirement: Retirement): TokenKeyView[] {
  return keyStates(ring, retirement).map(({ id, state, goneAtMs }) => ({
    id,
    state,
    goneAt: goneAtMs === null ? null : formatWallMs(goneAtMs),
  }))
}
