import fc from 'fast-check'
import { expect, test } from 'vitest'
import { changed, exampleConfig, parse, refusal } from '../../test/support/example-config.ts'
import { HoldfastError } from '../base/errors.ts'

/** What is no YAML, or no mapping of keys to values. */

test.each<[what: string, text: string, message: string, hint: string]>([
  [
    'no YAML',
    'fleet: [x\n',
    'holdfast.yaml:2:1: flow sequence in block collection must be sufficiently indented and end with a ]',
    'write it as YAML 1.2',
  ],
  [
    'an alias without an anchor',
    changed('[us-east, us-east]', '*nowhere'),
    'holdfast.yaml:1:1: unresolved alias (the anchor must be set before the alias): nowhere',
    'write it as YAML 1.2',
  ],
  [
    'a mapping that holds itself',
    changed('durability: quorum, followers: [us-east', 'durability: &own { it: *own }, followers: [us-east'),
    'holdfast.yaml:12:40: shards.us-east/treasury.durability: this is not known',
    'write quorum or local',
  ],
  ['a list', '- fleet\n', 'holdfast.yaml:1:1: is not a mapping of keys to values', 'write a mapping of keys to values'],
])('%s is refused with the line, what is wrong and what would be right', (_, text, message, hint) => {
  expect(refusal(text)).toMatchObject({ code: 'config_invalid', message, hint })
})

test('a value behind an alias is found at its alias', () => {
  const text = changed(
    '{ authority: [us-east], replicas: [US], otherwise: reject } }\n  tax',
    '&us { authority: [us-east], replicas: [US], otherwise: reject, x: 1 } }\n  tax',
  ).replace(
    'home: us-east/treasury, policy: { authority: [us-east], replicas: [US], otherwise: reject }',
    'home: us-east/treasury, policy: *us',
  )
  expect(refusal(text).message.split('\n')).toEqual([
    'holdfast.yaml:16:86: domains.treasury.policy.x: unknown key',
    'holdfast.yaml:16:86: tenants.initech-us.policy.x: unknown key',
  ])
})

test('whatever is done to the text, the answer is a configuration or a refusal', () => {
  const tokens = exampleConfig.split(/(?<=\s)/)
  const pieces = fc.constantFrom(
    ...tokens,
    '*x',
    '&x ',
    '!!binary ',
    '? ',
    '- ',
    '{',
    '}',
    '[',
    ']',
    ': ',
    '\n',
    '~',
    '__proto__: 1',
  )
  const edits = fc.array(fc.record({ at: fc.nat({ max: tokens.length }), remove: fc.nat({ max: 3 }), piece: pieces }))
  fc.assert(
    fc.property(edits, (all) => {
      const text = [...tokens]
      for (const { at, remove, piece } of all) text.splice(at, remove, piece)
      try {
        parse(text.join(''))
      } catch (error) {
        expect(error).toBeInstanceOf(HoldfastError)
      }
    }),
    { numRuns: 300 },
  )
})
